"""Mail servers in JavaScript: Haraka, and Nodemailer's smtp-server, as `tests/servers/fetch_npm.sh` fetches them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from servers.program import Program

MODULES = Path(__file__).parents[2] / ".cache" / "npm" / "node_modules"

_TAKE = """\
const fs = require('node:fs')
let number = 0
exports.register = function () {
  this.register_hook('rcpt', 'accept')
  this.register_hook('queue', 'take')
}
exports.accept = function (next) { next(OK) }
exports.take = function (next, connection) {
  connection.transaction.message_stream.get_data(data => {
    fs.writeFileSync(`TAKEN/${process.pid}-${number++}`, data)
    next(OK)
  })
}
"""
_SERVER = """\
const fs = require('node:fs')
const { SMTPServer } = require('MODULES/smtp-server')
let number = 0
const server = new SMTPServer({
  authOptional: true,
  disabledCommands: ['STARTTLS'],
  allowInsecureAuth: true,
  onAuth: (auth, session, callback) => callback(null, { user: auth.username }),
  onData (stream, session, callback) {
    const file = fs.createWriteStream(`TAKEN/${number++}`)
    stream.pipe(file)
    file.on('finish', () => callback(null, 'taken'))
  }
})
server.listen(PORT, '127.0.0.1')
"""


def available(module: str) -> str:
    """ "" or why it cannot run here."""
    if shutil.which("node") is None:
        return "node is not installed"
    return "" if (MODULES / module).exists() else f"no {module} in .cache/npm (run tests/servers/fetch_npm.sh)"


class Haraka(Program):
    """Closes a session in which a command came behind the end of data."""

    def configure(self) -> list[str]:
        program = ["node", str(MODULES / "Haraka" / "bin" / "haraka")]
        place = self.directory / "haraka"
        subprocess.run([*program, "-i", str(place)], check=True, capture_output=True, timeout=60)
        config, plugins = place / "config", place / "plugins"
        (config / "smtp.ini").write_text(f"listen=127.0.0.1:{self.port}\nnodes=0\n")
        (config / "plugins").write_text("take\n")
        (config / "me").write_text("haraka.example.test\n")
        (config / "log.ini").write_text("[main]\nlevel=NOTICE\n")
        (plugins / "take.js").write_text(_TAKE.replace("TAKEN", str(self.taken)))
        return [*program, "-c", str(place)]


class SmtpServer(Program):
    """Nodemailer's; it says of itself nothing but ESMTP."""

    def configure(self) -> list[str]:
        program = self.directory / "server.js"
        text = _SERVER.replace("MODULES", str(MODULES)).replace("TAKEN", str(self.taken))
        program.write_text(text.replace("PORT", str(self.port)))
        return ["node", str(program)]
