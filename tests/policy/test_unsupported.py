import pytest

from proxy.policy.unsupported import ROWS

OFF = [
    "include: []",
    "server: {tls: off}",
    "on_state_down: {money: local}",
    "on_state_down: {money: local, rates: local}",
    "at_limit: {degrade: off, stop_streams: false}",
    "alerts: off",
    "callers: {signatures: off, networks: false, kubernetes: off}",
    "guard: {secrets: off, injection: off, output: false, custom: []}",
    "guard: {custom: off}",
    "inputs: off",
    "hedge: off",
    "keepalive: off",
    "cache: off",
    "single_flight: off",
    "optimize: off",
    "models: {}",
    "shadow: off",
    "rules: [{guard: {secrets: off, pii: flag}}]",
]
ON = [
    ("include: [org.yaml]", "include"),
    ("server: {tls: {cert: file:a, key: file:b}}", "server.tls"),
    ("callers: {signatures: {secret: env:S}}", "callers.signatures"),
    ("callers: {networks: {deny: [10.0.0.0/8]}}", "callers.networks"),
    ("callers: {kubernetes: {audience: sluice}}", "callers.kubernetes"),
    ("providers: {bedrock: {region: us-east-1}}", "providers.bedrock"),
    ("providers: {aws: {dialect: bedrock}}", "providers.aws.dialect"),
    ("providers: {openai: {credentials: env}}", "providers.openai.credentials"),
    ("guard: {secrets: block}", "guard.secrets"),
    ("guard: {injection: {action: flag}}", "guard.injection"),
    ("guard: {output: {pii: flag}}", "guard.output"),
    ("guard: {custom: [{name: a, pattern: b}]}", "guard.custom"),
    ("guard: {pii: {person: mask}}", "guard.pii.person"),
    ("rules: [{guard: {pii: {mac: off}}}]", "rules[0].guard.pii.mac"),
    ("inputs: {max_chars: 400k}", "inputs"),
    ("hedge: {after: p95}", "hedge"),
    ("keepalive: 15s", "keepalive"),
    ("cache: {ttl: 1h}", "cache"),
    ("single_flight: caller", "single_flight"),
    ("optimize: {strategy: balanced}", "optimize"),
    ("models: {fast: {alias: openai/gpt-4o-mini}}", "models"),
    ("rules: [{cache: {ttl: 1h}}]", "rules[0].cache"),
    ("shadow: next.yaml", "shadow"),
    ("observe: {otlp: env:X}", "observe.otlp"),
]


@pytest.mark.parametrize("text", OFF)
def test_a_key_that_is_off_or_default_is_accepted(problems, text):
    assert problems(text) == []


@pytest.mark.parametrize(("text", "path"), ON)
def test_a_key_that_is_not_built_yet_is_refused_at_its_place(problems, text, path):
    assert any(f" {path}: not supported yet" in one for one in problems(text)), problems(text)


def test_every_row_of_the_table_is_shown_above():
    shown = {path.split(".")[-1].split("[")[0] for _, path in ON}
    assert {row.path.split(".")[-1] for row in ROWS} <= shown


def test_a_misspelt_entity_is_not_taken_for_one_that_is_to_come(problems):
    assert problems("guard: {pii: {emial: mask}}") == ["1:15 guard.pii.emial: unknown entity; did you mean `email`?"]
    assert "did you mean `credit_card`" in problems("rules: [{guard: {pii: {credit_crad: off}}}]")[0]
