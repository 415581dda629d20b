#!/bin/sh
# Unpacks Exim and OpenSMTPD into .cache/mta for the tests, without installing them: Debian lets only one mail server
# be installed at a time. Needs Debian or Ubuntu; no root.
set -eu
cache="$(cd "$(dirname "$0")/../.." && pwd)/.cache/mta"
mkdir -p "$cache/packages"
echo '*' > "$cache/../.gitignore"
cd "$cache/packages"
apt-get download exim4-base exim4-daemon-light libidn12 opensmtpd
for package in ./*.deb; do dpkg -x "$package" "$cache"; done
