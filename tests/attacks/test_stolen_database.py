"""The cloud's database in the wrong hands: everything in it is tried, and nothing of it opens anything."""

import hashlib
import re
import sqlite3
from pathlib import Path

from cloud.config import Home
from tests.attacks.identities import enrolled, new_key, request_of, stranger, token_for, wish
from tests.support.fleet import Fleet

TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
PIECE = re.compile(r"[A-Za-z0-9_.=+/-]{8,200}")


def strings_in(database: Path) -> set[str]:
    """Every text in every row, and every word in it that could be a credential."""
    found: set[str] = set()
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608
            for value in row:
                if isinstance(value, str | bytes):
                    text = value if isinstance(value, str) else value.decode("latin-1")
                    found.add(text)
                    found.update(PIECE.findall(text))
    connection.close()
    return found


def test_nothing_in_a_stolen_database_opens_anything(fleet: Fleet) -> None:
    home = Home(fleet.office.home)
    operator, code = home.token_file.read_text().strip(), token_for(fleet, uses=50)
    enrolled(fleet, "stolen-1")
    strings = strings_in(home.cloud / "fleetlift.db")
    assert {"stolen-1", "operator", hashlib.sha256(operator.encode()).hexdigest()} <= strings, "it was looked into"
    raw = b"".join(path.read_bytes() for path in home.cloud.glob("fleetlift.db*"))
    for secret in (operator, code):
        assert secret not in strings
        assert secret.encode() not in raw
    assert b"PRIVATE KEY" not in raw
    credentials = sorted({text for text in strings if PIECE.fullmatch(text)})
    with stranger(fleet) as http:
        for text in credentials:
            answer = http.get("/system", headers={"Authorization": f"Bearer {text}"})
            assert answer.status_code == 401, text
        tokens = [text[:22] for text in credentials if TOKEN.match(text)]
        csr = request_of(new_key())
        for number, text in enumerate(tokens):
            elsewhere = {"X-Forwarded-For": f"2001:db8:0:{number:x}::1"}  # who is refused too often has to wait
            answer = http.post("/enrolment", json=wish(text, "thief", csr), headers=elsewhere)
            assert answer.status_code in (403, 422), text
        assert tokens
        good = http.get("/system", headers={"Authorization": f"Bearer {operator}"})
        assert good.status_code == 200, "the very same way, with what is right"
    assert fleet.query("SELECT * FROM device WHERE id = 'thief'") == []
