"""The contract of the peers that use pydantic, with the rules of the proto."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

EMAIL = r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*$"
LABEL = r"^[a-z]([a-z0-9_.-]{0,61}[a-z0-9])?$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Labels = Annotated[
    dict[Annotated[str, StringConstraints(pattern=LABEL)], Annotated[str, StringConstraints(max_length=255)]],
    Field(max_length=64),
]
Roles = Annotated[list[Literal["viewer", "editor", "operator", "admin"]], Field(max_length=16)]


class Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class UserWrite(Model):
    display_name: Name
    email: Annotated[str, StringConstraints(pattern=EMAIL, max_length=254)]
    labels: Labels = {}
    roles: Roles = []


class UserUpdate(Model):
    """The change of the benchmark: a name, guarded by an etag."""

    display_name: Name
    etag: Annotated[str, StringConstraints(pattern=r'^"\d{1,18}"$')]


class Resource(Model):
    id: str
    tenant_id: str
    display_name: str
    labels: dict[str, str]
    state: str
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    created_by: str
    etag: str


class User(Resource):
    email: str
    roles: list[str]


class Users(Model):
    users: list[User]


class UserPage(Users):
    next_page_token: str


class Tool(Model):
    name: str
    description: str
    input_schema: dict[str, Any]


class Agent(Resource):
    description: str
    model: str
    instructions: str
    tools: list[Tool]
    parameters: dict[str, Any] | None
