"""The life of accounts in any order, against a model: who may sign in with what, whatever happened before.

Schemathesis asks each operation by itself; here the answer of one is what the next is asked with.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.integration.system import Answer, System, running

PASSWORDS = ("the first password, long", "the second password, long", "the third password, long")
_serial = iter(range(10**6))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    env = {"HUBBUB_ACCOUNTS": "open", "HUBBUB_LIMIT_RATE": "0", "HUBBUB_LIMIT_USER_RATE": "0"}
    with running(tmp_path_factory.mktemp("states"), shards=1, env=env) as system:
        yield system


def test_accounts_in_any_order(server: System) -> None:
    class Account(RuleBasedStateMachine):
        """One account; `sessions` are the refresh tokens that count, `spent` those that count no more."""

        @initialize()
        def begin(self) -> None:
            self.name = f"states-{next(_serial)}"
            self.password = PASSWORDS[0]
            self.sessions: list[str] = []
            self.spent: list[str] = []
            self.messages = 0
            self.signed_in(self.ask("register", username=self.name, password=self.password), 201)

        def ask(self, what: str, token: str | None = None, **body: str) -> Answer:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return server.post(f"/api/{what}", body, headers)

        def signed_in(self, answer: Answer, status: int = 200) -> None:
            assert answer.status == status, answer.body
            self.token = answer.json["token"]
            self.sessions.append(answer.json["refresh_token"])

        @rule(password=st.sampled_from(PASSWORDS))
        def sign_in(self, password: str) -> None:
            answer = self.ask("login", username=self.name, password=password)
            if answer.status == 429:
                return  # one address guesses so often and no more; that is tested elsewhere
            if password == self.password:
                self.signed_in(answer)
            else:
                assert answer.status == 401

        @rule()
        def register_again(self) -> None:
            assert self.ask("register", username=self.name, password=PASSWORDS[1]).status == 409

        @precondition(lambda self: self.sessions)
        @rule(data=st.data())
        def go_on(self, data: st.DataObject) -> None:
            refresh = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
            self.signed_in(self.ask("token", refresh_token=refresh))

        @precondition(lambda self: self.sessions)
        @rule(data=st.data())
        def sign_out(self, data: st.DataObject) -> None:
            refresh = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
            assert self.ask("logout", refresh_token=refresh).status == 204
            self.spent.append(refresh)

        @precondition(lambda self: self.spent)
        @rule(data=st.data())
        def go_on_with_nothing(self, data: st.DataObject) -> None:
            assert self.ask("token", refresh_token=data.draw(st.sampled_from(self.spent))).status == 401

        @rule(current=st.sampled_from(PASSWORDS), new=st.sampled_from(PASSWORDS))
        def change(self, current: str, new: str) -> None:
            answer = self.ask("password", self.token, password=current, new_password=new)
            if answer.status == 429:
                return
            if current != self.password:
                assert answer.status == 401, answer.body
                return
            self.password = new
            self.spent += self.sessions
            self.sessions.clear()
            self.signed_in(answer)

        @rule()
        def post(self) -> None:
            assert self.ask("messages", self.token, content="hi", recipient=self.name).status == 201
            self.messages += 1
            path = f"/api/conversations/direct:{self.name}:{self.name}/messages"
            answer = server.get(path, {"Authorization": f"Bearer {self.token}"})
            assert [event["content"] for event in answer.json["messages"]] == ["hi"] * self.messages

    run_state_machine_as_test(
        Account,
        settings=settings(
            max_examples=6,
            stateful_step_count=12,
            deadline=None,
            database=None,
            derandomize="CI" in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )
