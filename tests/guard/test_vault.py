"""One value, one placeholder; nothing of a value shows."""

from proxy.guard.find import ENTITIES
from proxy.guard.vault import LABELS, Vault


def test_the_same_value_has_the_same_placeholder_and_another_has_another():
    vault = Vault()
    assert [vault.placeholder("email", value) for value in ("a@x.org", "b@x.org", "a@x.org")] == [b"[EMAIL_1]", b"[EMAIL_2]", b"[EMAIL_1]"]
    assert vault.placeholder("phone", "a@x.org") == b"[PHONE_1]"
    assert (vault.value("EMAIL_2"), vault.value("EMAIL_3"), len(vault)) == ("b@x.org", None, 3)
    assert vault.labels == {"EMAIL", "PHONE"}


def test_a_name_that_the_caller_uses_itself_is_not_given_out():
    vault = Vault(lambda name: name in b"my [EMAIL_1] and [EMAIL_2]")
    assert vault.placeholder("email", "a@x.org") == b"[EMAIL_3]"


def test_every_entity_has_a_label_of_plain_ascii():
    assert set(LABELS) == ENTITIES
    assert all(label.replace("_", "").isalpha() and label.isascii() and label.isupper() for label in LABELS.values())


def test_a_vault_shows_no_value():
    vault = Vault()
    vault.placeholder("email", "a@x.org")
    assert repr(vault) == "Vault(1 values)"
