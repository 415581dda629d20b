#!/bin/sh
# Fetches the source of the installed Django into .cache/django: its wheel lacks Django's own tests, and ours run those of
# e-mail backends against the outbox. Needs pip and an index; no root. Another version: fetch_django.sh 6.1.3
set -eu
python="${PYTHON:-python}"
version="${1:-$("$python" -c 'import django; print(django.__version__)')}"
cache="$(cd "$(dirname "$0")/../.." && pwd)/.cache"
mkdir -p "$cache/django"
echo '*' > "$cache/.gitignore"
cd "$cache/django"
"${PIP:-pip}" download --quiet --no-deps --no-binary :all: "django==$version"
tar -xzf "django-$version.tar.gz" "django-$version/tests/mail"
