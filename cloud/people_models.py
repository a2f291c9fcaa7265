"""Rows of people: who may do what, what they prove themselves with, and how the fleet was over time."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from cloud.models import Row


class PersonRow(Row, table=True):
    """Somebody, or some program, that decides. `password` is an Argon2id hash; without one nobody logs in as them."""

    __tablename__ = "person"
    name: str = Field(primary_key=True)
    password: str | None = None
    created_at_ms: int = Field(sa_type=BigInteger)
    created_by: str
    disabled_at_ms: int | None = Field(default=None, sa_type=BigInteger)


class GrantRow(Row, table=True):
    """The role of a person for one product; `product` is `*` for all of them and the server itself."""

    __tablename__ = "person_grant"
    person: str = Field(primary_key=True, foreign_key="person.name")
    product: str = Field(primary_key=True)
    role: str
    granted_at_ms: int = Field(sa_type=BigInteger)
    granted_by: str


class SessionRow(Row, table=True):
    """A person who is logged in to the console, by the SHA-256 of the cookie; `csrf` is what their forms carry.

    `until_ms` is when the token ends that let them in: what is made in the session does not live longer.
    """

    __tablename__ = "console_session"
    sha256: str = Field(primary_key=True)
    person: str = Field(foreign_key="person.name", index=True)
    csrf: str
    address: str
    created_at_ms: int = Field(sa_type=BigInteger)
    seen_at_ms: int = Field(sa_type=BigInteger)
    expires_at_ms: int = Field(sa_type=BigInteger)
    until_ms: int | None = Field(default=None, sa_type=BigInteger)


class LoginCodeRow(Row, table=True):
    """A code that is good for one login, by its SHA-256: who holds a person's token may ask for one.

    `until_ms` is when that token ends: what the code opens does not live longer.
    """

    __tablename__ = "login_code"
    sha256: str = Field(primary_key=True)
    person: str = Field(foreign_key="person.name")
    expires_at_ms: int = Field(sa_type=BigInteger)
    until_ms: int | None = Field(default=None, sa_type=BigInteger)


class SampleRow(Row, table=True):
    """How many devices of a product ran a version of a component at one time, for plots over time.

    `component` and `version` are empty for the product's devices as such; `online` of them were connected.
    """

    __tablename__ = "fleet_sample"
    __table_args__ = (Index(None, "at_ms"),)
    product: str = Field(primary_key=True, foreign_key="product.id")
    component: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    at_ms: int = Field(primary_key=True, sa_type=BigInteger)
    devices: int
    online: int
