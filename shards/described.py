"""All addresses under ``/api``, together: what is served, and what is described."""

from shards import accounts, admin, api, asyncapi, openapi
from shards.http import Context, Route
from shards.questions import Questions


def routes(context: Context, questions: Questions, people: accounts.Accounts, glance: admin.Glance) -> list[Route]:
    """Every described route; the OpenAPI document among them describes them all."""
    described = [
        *api.routes(context, questions, people.settings.accounts),
        *accounts.routes(context, people),
        *admin.routes(context, glance),
        *asyncapi.routes(context),
    ]
    return [*described, *openapi.routes(context, described)]
