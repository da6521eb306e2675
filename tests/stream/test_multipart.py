"""The model's name in the beginning of a form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.multipart import form_field

KIND = 'multipart/form-data; boundary="xx yy"'
FORM = (
    b'--xx yy\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\nname="model"\r\n'
    b'--xx yy\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--xx yy\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n--xx yy--\r\n'
)


@given(st.integers(0, len(FORM)))
def test_however_much_of_the_form_has_come_the_answer_is_right_or_not_yet_there(length):
    is_decided, value = form_field(FORM[:length], KIND, "model")
    assert value in (None, "whisper-1")
    assert is_decided == (value is not None)
    assert form_field(FORM, KIND, "model") == (True, "whisper-1")


def test_a_form_without_the_field_is_decided_at_its_end():
    assert form_field(FORM, KIND, "prompt") == (True, None)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", ""])
def test_a_form_without_a_boundary_cannot_be_read(kind):
    assert form_field(FORM, kind, "model") == (True, None)


def test_a_file_that_calls_itself_model_is_no_model():
    form = b'--b\r\nContent-Disposition: form-data; name="model"; filename="x"\r\n\r\ngpt-4o\r\n--b--\r\n'
    assert form_field(form, "multipart/form-data; boundary=b", "model") == (True, None)


def test_a_name_longer_than_any_model_is_not_taken():
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"m" * 600
    assert form_field(form, "multipart/form-data; boundary=b", "model") == (True, None)
