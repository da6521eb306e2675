"""The model's name in a form, as it passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import Refusal
from proxy.stream.multipart import FormField

KIND = 'multipart/form-data; boundary="xx yy"'
FILE = b'--xx yy\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\nname="model"\r\n'
MODEL = b'--xx yy\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
REST = b'--xx yy\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n--xx yy--\r\n'


def read(form: bytes, *cuts: int, kind: str = KIND, name: str = "model") -> FormField:
    field, at = FormField(kind, name), 0
    for cut in (*sorted(cuts), len(form)):
        field.saw(form[at:cut])
        at = cut
    return field


@given(st.lists(st.integers(0, len(FILE + MODEL + REST)), max_size=8))
def test_wherever_the_form_is_cut_the_model_is_found(cuts):
    assert read(FILE + MODEL + REST, *cuts).value == "whisper-1"


@given(st.integers(0, len(FILE + MODEL + REST)))
def test_however_much_of_the_form_has_come_the_answer_is_right_or_not_yet_there(length):
    field = read((FILE + MODEL + REST)[:length])
    assert field.value in (None, "whisper-1")
    assert field.is_decided == (field.value is not None)


@given(st.integers(0, len(MODEL + FILE + MODEL)))
def test_a_second_model_is_refused_wherever_it_stands(cut):
    with pytest.raises(Refusal) as no:
        read(MODEL + FILE + MODEL + REST, cut)
    assert no.value.code == "duplicate_key"


def test_a_form_without_the_field_is_decided_at_its_end():
    field = read(FILE + REST)
    assert (field.is_decided, field.value) == (True, None)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "", "a/b; boundary=x; boundary=y"])
def test_a_form_without_one_boundary_is_never_decided(kind):
    assert not read(FILE + MODEL + REST, kind=kind).is_decided


@pytest.mark.parametrize(
    "named",
    [b"name=model", b"name='model'", b'NAME="model"', b"name*=utf-8''model", b'filename="x"; name="model"', b'name = "model"'],
)
@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
def test_what_any_reader_might_take_for_the_model_counts(named, eol):
    form = eol.join((b"--b", b"Content-Type: text/plain", b"Content-Disposition: form-data; " + named, b"", b"gpt-4o", b"--b--", b""))
    assert read(form, kind="multipart/form-data; boundary=b").value == "gpt-4o"


def test_a_value_longer_than_any_model_is_refused():
    with pytest.raises(Refusal) as no:
        read(MODEL.replace(b"whisper-1", b"m" * 600))
    assert no.value.code == "invalid_request"


def test_of_a_large_file_next_to_nothing_is_kept():
    field = read(FILE)
    for _ in range(100):
        field.saw(b"x" * 65536)
    assert len(field._rest) < 100
    field.saw(b"\r\n" + MODEL + REST)
    assert field.value == "whisper-1"
