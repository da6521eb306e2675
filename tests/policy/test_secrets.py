import pytest

from proxy.policy.problems import SecretError

TEXT = "providers:\n  openai: {key: file:key}\n  anthropic: {key: env:NOPE}\nserver: {admin_token: env:NEITHER}\n"


def test_every_missing_secret_is_named_with_its_place_and_the_fix(rulebook):
    with pytest.raises(SecretError) as caught:
        rulebook(TEXT)
    assert str(caught.value).splitlines() == [
        "p.yaml:2:17: providers.openai.key: file:key cannot be read (No such file or directory); "
        "the path is relative to the policy's folder",
        "p.yaml:3:20: providers.anthropic.key: env:NOPE is not set; set the environment variable NOPE",
        "p.yaml:4:23: server.admin_token: env:NEITHER is not set; set the environment variable NEITHER",
    ]


@pytest.mark.parametrize(
    ("content", "secret"), [(b"secret", "secret"), (b"secret\n", "secret"), (b"secret\r\n", "secret"), (b" sec ret ", " sec ret ")]
)
def test_one_trailing_newline_is_no_part_of_a_secret(rulebook, tmp_path, content, secret):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    book = rulebook("providers: {openai: {key: file:key}}")
    assert [(one.name, one.secret) for one in book.providers["openai"].credentials] == [("key", secret)]
    assert book.warnings == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\n\n", "one line"),
        (b"hunter2\x00", "control"),
        (b"\xff", "UTF-8"),
        (b"x" * 70_000, "64 KiB"),
    ],
)
def test_a_file_that_holds_no_usable_key_is_refused_unseen(rulebook, tmp_path, content, says):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SecretError, match=says) as caught:
        rulebook("providers: {openai: {key: file:key}}")
    assert "hunter2" not in str(caught.value)


def test_an_empty_or_broken_variable_is_no_secret(rulebook):
    for value, says in (("", "is empty"), ("a\nb", "one line"), ("schlüssel", "one line")):
        with pytest.raises(SecretError, match=says):
            rulebook("providers: {openai: {key: env:K}}", environ={"K": value})


def test_a_file_that_everybody_can_read_is_a_warning(rulebook, tmp_path):
    (tmp_path / "key").write_text("s")
    (tmp_path / "key").chmod(0o644)
    assert rulebook("providers: {openai: {key: file:key}}").warnings == (
        "file:key can be read by every user of this machine: chmod o-r it",
    )


def test_secrets_are_left_alone_when_a_policy_is_only_checked(rulebook):
    book = rulebook(TEXT, resolve=False)
    assert [one.name for one in book.providers["anthropic"].credentials] == ["NOPE"]


def test_headers_take_text_and_references(rulebook):
    book = rulebook("providers: {openai: {headers: {set: {OpenAI-Project: env:K, X-Plain: a b}, remove: [X-User-Id]}}}")
    openai = book.providers["openai"]
    assert openai.set_headers == ((b"OpenAI-Project", b"provider-key"), (b"X-Plain", b"a b"))
    assert openai.remove_headers == {"x-user-id"}
