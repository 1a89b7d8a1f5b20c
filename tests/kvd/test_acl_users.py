"""Users and selectors: what rules mean, how they are shown, and what they allow."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvd import acl_file
from kvd.acl_file import AclFileError
from kvd.acl_selectors import RuleError, Selector
from kvd.acl_users import UnmatchedParenthesis, User, hash_password, merge_selectors
from kvd.commands.table import CommandTable

TABLE = CommandTable.standard()


def user(*rules: str) -> User:
    return User(b"bob", TABLE).changed(merge_selectors(rule.encode() for rule in rules))


def commands(*rules: str) -> str:
    return user(*rules).selectors[0].commands_text.decode()


def reason(bob: User, *request: str) -> str | None:
    encoded = [word.encode() for word in request]
    denial = bob.deny(TABLE.find(encoded), encoded)
    return None if denial is None else f"{denial.reason} {denial.object.decode()}"


# ---------------------------------------------------------------- rules about commands


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        (["+get"], "-@all +get"),
        (["+get", "+set"], "-@all +get +set"),
        (["+get", "+set", "-get"], "-@all +set -get"),
        (["+GET", "+get"], "-@all +get"),
        (["+@read", "-get", "+@read"], "-@all -get +@read"),
        (["+get", "+@all"], "+@all"),
        (["+@all", "-get", "-@dangerous"], "+@all -get -@dangerous"),
        (["+@all", "-@all"], "-@all"),
        (["+client|id", "-client"], "-@all -client"),
        (["-client", "+client|id"], "-@all -client +client|id"),
        (["+select|0", "+select|1", "+select|0"], "-@all +select|1 +select|0"),
        (["+select|0", "+select"], "-@all +select"),
        (["allcommands", "nocommands"], "-@all"),
    ],
)
def test_rules_about_commands_are_shown_in_the_order_in_which_they_count(
    rules: list[str], shown: str
) -> None:
    assert commands(*rules) == shown


def test_a_container_stands_for_its_subcommands() -> None:
    bob = user("~*", "+client", "-client|setname")
    assert reason(bob, "CLIENT", "ID") is None
    assert reason(bob, "CLIENT", "SETNAME", "x") == "command client|setname"
    assert reason(user("+client|id"), "CLIENT", "ID") is None
    assert reason(user("+client|id"), "CLIENT", "INFO") == "command client|info"


def test_a_category_stands_for_its_commands() -> None:
    bob = user("~*", "+@read", "-@string", "+@connection")
    assert reason(bob, "EXISTS", "k") is None
    assert reason(bob, "GET", "k") == "command get"
    assert reason(bob, "SET", "k", "v") == "command set"
    assert reason(bob, "PING") is None


def test_commands_of_later_versions_are_allowed_by_all_only() -> None:
    everything = {spec.name for spec in TABLE.everything()}
    assert user("+@all").selectors[0].allowed == everything
    assert not user("-@all").selectors[0].allowed


def test_a_first_argument_can_be_allowed_alone() -> None:
    bob = user("+select|0", "+select|1")
    assert reason(bob, "SELECT", "0") is None
    assert reason(bob, "SELECT", "1") is None
    assert reason(bob, "SELECT", "2") == "command select"
    assert reason(user("+select|0", "-select"), "SELECT", "0") == "command select"


def test_logging_in_is_always_allowed() -> None:
    for request in (("AUTH", "x"), ("HELLO", "3"), ("RESET",), ("QUIT",)):
        assert reason(user("-@all"), *request) is None


# ---------------------------------------------------------------- keys and channels


def test_reading_and_writing_are_told_apart() -> None:
    bob = user("+@all", "%R~r:*", "%W~w:*", "~both:*")
    assert reason(bob, "GET", "r:1") is None
    assert reason(bob, "GET", "w:1") == "key w:1"
    assert reason(bob, "SET", "w:1", "x") is None
    assert reason(bob, "SET", "w:1", "x", "GET") == "key w:1"
    assert reason(bob, "SET", "r:1", "x") == "key r:1"
    assert reason(bob, "APPEND", "w:1", "x") is None
    assert reason(bob, "INCR", "w:1") == "key w:1"
    assert reason(bob, "INCR", "both:1") is None
    assert reason(bob, "EXISTS", "w:1") is None
    assert reason(bob, "COPY", "r:1", "w:1") is None
    assert reason(bob, "COPY", "w:1", "r:1") == "key w:1"


def test_the_same_pattern_twice_is_one_with_both_rights() -> None:
    assert user("%R~a", "%W~a", "%RW~b", "%wr~c").selectors[0].keys_text == b"~a ~b ~c"


def test_every_key_of_a_request_is_looked_at() -> None:
    bob = user("+@all", "~a*")
    assert reason(bob, "MGET", "a1", "a2") is None
    assert reason(bob, "MGET", "a1", "b", "a2", "c") == "key b"
    assert reason(bob, "MSET", "a1", "b", "b1", "a") == "key b1"


def test_channels_are_matched_and_patterns_are_compared() -> None:
    bob = user("+@all", "&news:*")
    assert reason(bob, "SUBSCRIBE", "news:1", "other") == "channel other"
    assert reason(bob, "PSUBSCRIBE", "news:*") is None
    assert reason(bob, "PSUBSCRIBE", "news:1*") == "channel news:1*"
    assert reason(bob, "PUBLISH", "other", "x") == "channel other"
    assert reason(bob, "SSUBSCRIBE", "news:1") is None
    assert reason(bob, "UNSUBSCRIBE", "other") is None
    assert reason(user("+@all", "&*"), "PSUBSCRIBE", "anything*") is None


# ---------------------------------------------------------------- selectors


def test_one_selector_has_to_allow_all_of_a_request() -> None:
    bob = user("+get", "~a*", "(+set", "~b*)", "(+@all", "%R~c*)")
    assert reason(bob, "GET", "a1") is None
    assert reason(bob, "SET", "b1", "x") is None
    assert reason(bob, "GET", "c1") is None
    assert reason(bob, "GET", "b1") == "key b1"
    assert reason(bob, "SET", "a1", "x") == "key a1"
    assert reason(bob, "MGET", "c1", "a1") == "key a1"


def test_the_denial_that_got_furthest_is_told() -> None:
    bob = user("+get", "~a", "(+mget ~a)", "(+mget ~a ~b)")
    assert reason(bob, "MGET", "a", "b", "c") == "key c"
    assert reason(bob, "STRLEN", "a") == "command strlen"


def test_selectors_may_be_split_at_their_blanks() -> None:
    assert merge_selectors([b"on", b"(+get", b"~a", b"+set)", b"(+x)", b"off"]) == [
        b"on",
        b"(+get ~a +set)",
        b"(+x)",
        b"off",
    ]
    with pytest.raises(UnmatchedParenthesis):
        merge_selectors([b"(+get", b"~a"])


# ---------------------------------------------------------------- users


def test_a_new_user_may_do_nothing() -> None:
    assert bytes(user()) == b"user bob off sanitize-payload resetchannels -@all"
    assert not user().accepts(b"")


def test_passwords() -> None:
    bob = user("on", ">one", ">two", ">one", f"#{hash_password(b'three').decode()}")
    assert len(bob.passwords) == 3
    assert all(bob.accepts(password) for password in (b"one", b"two", b"three"))
    assert not bob.accepts(b"four")
    fewer = bob.changed([b"<one", b"!" + hash_password(b"two")])
    assert [fewer.accepts(password) for password in (b"one", b"two", b"three")] == [False, False, True]
    assert bob.accepts(b"one")  # a copy was changed
    assert not bob.changed([b"off"]).accepts(b"one")
    anyone = bob.changed([b"nopass"])
    assert anyone.accepts(b"whatever")
    assert not anyone.passwords
    assert not anyone.changed([b"resetpass"]).accepts(b"whatever")
    assert not anyone.changed([b">new"]).accepts(b"whatever")


def test_reset_makes_a_new_user() -> None:
    bob = user("on", ">pw", "~*", "&*", "+@all", "(+get)", "skip-sanitize-payload")
    assert bob.unrestricted
    reset = bob.changed([b"reset"])
    assert bytes(reset) == bytes(user())
    assert not reset.unrestricted


@pytest.mark.parametrize(
    "rules", [["+@all", "~*"], ["+@all", "&*"], ["~*", "&*"], ["+@all", "~*", "&*", "-get"]]
)
def test_only_who_may_do_everything_is_unrestricted(rules: list[str]) -> None:
    assert not user(*rules).unrestricted
    assert user(*rules, "(+@all ~* &*)").unrestricted


def test_a_rule_that_fails_is_named_and_nothing_is_changed() -> None:
    bob = user("on", "+get")
    with pytest.raises(RuleError) as raised:
        bob.changed([b"+set", b"+nosuch", b"off"])
    assert raised.value.rule == b"+nosuch"
    assert bytes(bob) == b"user bob on sanitize-payload resetchannels -@all +get"


_RULES = st.sampled_from(
    "on off nopass resetpass >pw >other ~a* ~b %R~c %W~c %RW~d resetkeys &ch &n:* resetchannels "
    "+@all -@all +get -get +@read -@write +client -client +client|id -client|id +select|0 -select "
    "(+get_~x) (+@all_-set_%R~y_&z) clearselectors sanitize-payload skip-sanitize-payload reset".split(),
)


@given(rules=st.lists(_RULES, max_size=15))
def test_what_is_shown_makes_the_same_user(rules: list[str]) -> None:
    bob = user(*(rule.replace("_", " ") for rule in rules))
    line = bytes(bob)
    again = acl_file.parse([("here", line)], TABLE)[b"bob"]
    assert bytes(again) == line
    assert again.unrestricted == bob.unrestricted
    for mine, theirs in zip(bob.selectors, again.selectors, strict=True):
        assert mine.allowed == theirs.allowed
        assert mine.first_arguments == theirs.first_arguments
        assert mine.keys_text == theirs.keys_text


@given(text=st.binary(max_size=30))
def test_no_rule_does_anything_but_work_or_fail_cleanly(text: bytes) -> None:
    selector = Selector(TABLE)
    for rule in (text, b"+" + text, b"~" + text, b"&" + text, b"%" + text, b"-@" + text):
        try:
            selector.apply(rule)
        except RuleError as error:
            assert error.text  # noqa: PT017
    bytes(selector)


# ---------------------------------------------------------------- files


def test_every_mistake_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_bytes(
        b"\n".join(
            (
                b"user bob on >secret +get ~a",
                b"",
                b"# a comment",
                b"user",
                b"user bob on",
                b"user al on +nosuch",
                b"user al on #secret",
                b"user al on (+get",
                b"  user ok   on +get  ",
            )
        )
    )
    with pytest.raises(AclFileError) as raised:
        acl_file.load(path, TABLE)
    problems = [problem.removeprefix(f"{path}:") for problem in raised.value.problems]
    assert [problem[0] for problem in problems] == ["3", "4", "5", "6", "7", "8"]
    assert "start with user keyword" in problems[0]
    assert "Duplicate user 'bob'" in problems[2]
    assert "'+nosuch': Unknown command" in problems[3]
    assert "secret" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AclFileError, match="No such file"):
        acl_file.load(tmp_path / "nothing", TABLE)


def test_saving_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    bob = user("on", ">pw", "~a", "+get", "(+set ~b)")
    acl_file.save(path, [bob])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    acl_file.save(path, [bob, User(b"al", TABLE)])
    assert path.stat().st_mode & 0o777 == 0o640
    loaded = acl_file.load(path, TABLE)
    assert list(map(bytes, loaded.values())) == [bytes(bob), bytes(User(b"al", TABLE))]
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.mkdir()  # nothing can be renamed over a directory
    with pytest.raises(OSError):  # noqa: PT011 -- which one depends on the system
        acl_file.save(path, [user()])
    assert list(tmp_path.iterdir()) == [path]
