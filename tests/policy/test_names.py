import pytest

KEY = "callers: {keys: [{name: a, key: env:A}]}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("callers: {anonymous: free}", "callers.anonymous: no tier of this name"),
        ("callers: {pass_through: free}", "callers.pass_through: no tier of this name"),
        ("callers: {default_tier: free}", "callers.default_tier: no tier of this name"),
        ("callers: {keys: [{name: a, key: env:A, tier: gold}]}\ntiers: {golden: {}}", "did you mean `golden`"),
        ("callers: {keys: [{name: a, key: env:A, team: x}]}", "keys[0].team: no team"),
        ("callers: {keys: [{name: a, key: env:A, own_provider_key: opneai}]}", "did you mean `openai`"),
        ("callers: {keys: [{name: a, key: env:A}, {name: a, key: env:B}]}", "keys[1].name: two keys of this name"),
        (
            f"callers: {{keys: [{{name: a, hash: 'sha256:{'0' * 64}'}}, {{name: b, hash: 'sha256:{'0' * 64}'}}]}}",
            "keys[1].hash: two callers with one key",
        ),
        ("callers: {keys: [{name: a, key: env:A, allow: {providers: [opnai]}}]}", "allow.providers[0]: no provider"),
        ("callers: {keys: [{name: a, key: env:A, allow: {providers: [zz*]}}]}", "matches no provider"),
        ("callers: {jwt: [{name: a, issuer: i, jwks: https://x.example, allow: {tiers: [gold]}}]}", "allow.tiers[0]: no tier"),
        ("callers: {jwt: [{name: a, issuer: i, jwks: https://x.example, claims: {tier: {from: p, map: {x: gold}}}}]}", "map.x: no tier"),
        (
            "callers: {jwt: [{name: a, issuer: i, jwks: https://x.example}, {name: b, issuer: i, jwks: https://x.example}]}",
            "jwt[1].issuer: two entries for one issuer",
        ),
        ("limits: [{name: a, requests: 1/min}, {name: a, requests: 2/min}]", "limits[1].name: two limits"),
        ("limits: [{name: a, match: {team: x}, requests: 1/min}]", "match.team: no team"),
        ("limits: [{name: a, match: {provider: [openai, x]}, requests: 1/min}]", "match.provider[1]: no provider"),
        ("limits: [{name: a, match: {not: {tier: x}}, requests: 1/min}]", "match.not.tier: no tier"),
        ("limits: [{name: a, match: {caller: 'corp:alice'}, requests: 1/min}]", "no JWT issuer"),
        ("limits: [{name: a, match: {'claim:org': x}, requests: 1/min}]", "no call carries claims"),
        ("limits: [{name: a, per: 'claim:org', requests: 1/min}]", "needs an issuer"),
        ("limits: [{name: a, per: end_user, requests: 1/min}]", "needs `callers: {end_user"),
        ("teams: {t: {allow: {providers: [nope]}}}", "teams.t.allow.providers[0]: no provider"),
        ("default_provider: opena", "did you mean `openai`"),
        ("default_provider: azure", "default_provider: no provider"),
        ("providers: {mine: {url: https://x.example}}", "providers.mine: is not built in: needs `dialect`"),
        ("providers: {opnai: {key: env:K}}", "did you mean `openai`"),
        ("providers: {azure: {key: env:K}}", "providers.azure: needs `url`"),
        ("providers: {openai: {dialect: gemini}}", "speaks openai"),
        ("providers: {mine: {dialect: openai, url: 'http://x.example'}}", "providers.mine.url: needs https://"),
        ("providers: {vertex: {region: 'evil.example/#'}}", "Google region"),
        ("fallback: {gpt-4o: [azur/gpt-4o]}", "fallback.gpt-4o[0]: no provider of this name"),
        ("fallback: {gpt-4o: [azure/gpt-4o]}", "needs a `url`"),
        ("fallback: {gpt-4o: [anthropic/claude-sonnet-4-5]}", "Sluice translates no messages"),
        ("fallback: {gpt-4o: claude-sonnet-4-5}", "Sluice translates no messages"),
        ("fallback: {anthropic/x: [openai/x]}", "Sluice translates no messages"),
        ("fallback: {gemini-2.5-pro: [vertex/gemini-2.5-pro]}", "caller's own token"),
        ("fallback: {gpt-4o: ['openai/*']}", "one of each"),
        ("rules: [{match: {model: claude-x}, send_to: openai/gpt-4o}]", "send_to: speaks openai's"),
        ("rules: [{match: {provider: gemini}, send_to: openai/gpt-4o}]", "send_to: speaks openai's"),
        ("rules: [{fallback: {gpt-4o: [x/y]}}]", "rules[0].fallback.gpt-4o[0]: no provider"),
        ("rules: [{allow: {tiers: [x]}}]", "rules[0].allow.tiers[0]: no tier"),
        ("rules: [{match: {model: x}}]", "rules[0]: sets nothing"),
        ("rules: [{retry: off}, {match: {model: x}, retry: {attempts: 5}}]", "rules[1]: never acts"),
        ("rules: [{match: {model: [x, y]}, guard: off}, {match: {model: x, operation: chat}, guard: {pii: mask}}]", "rules[1]: never acts"),
        ("limits: [{name: a, requests: off}]", "limits nothing"),
        ("limits: [{name: a, requests: 1/min, per: [total, caller]}]", "`per` needs"),
        ("limits: [{name: a, requests: 1/min, per: 'header:Authorization'}]", "credential"),
        ("limits: [{name: a, requests: 1/min, per: colour}]", "header:NAME or claim:NAME"),
        ("limits: [{name: a, requests: 1/min, match: {operation: chats}}]", "needs one of audio"),
        ("limits: [{name: a, requests: 1/min, match: {ip: 10.0.0.300}}]", "IP address"),
        ("limits: [{name: a, requests: 1/min, match: {method: post}}]", "upper-case"),
        ("callers: {keys: [{name: 'a:b', key: env:A}]}", "no colon"),
        ("callers: {keys: [{name: a}]}", "either `hash`"),
        (f"callers: {{keys: [{{name: a, hash: 'sha256:{'0' * 64}', own_provider_key: openai}}]}}", "own_provider_key needs"),
        ("callers: {jwt: [{name: a, issuer: i}]}", "either `jwks`"),
        ("callers: {jwt: [{name: a, issuer: i, jwks: 'http://x.example'}]}", "https://"),
        ("callers: {jwt: [{name: a, issuer: i, secret: env:S, algorithms: [RS256]}]}", "HS256 goes with"),
        ("callers: {end_user: [cookie]}", "header:NAME or body:user"),
        ("providers: {openai: {key: env:K, keys: [env:B]}}", "not both"),
        ("providers: {openai: {models: {a: x, b: x}}}", "two of ours"),
        ("providers: {openai: {headers: {set: {Host: x}}}}", "frames the message"),
        ("providers: {openai: {headers: {remove: ['a b']}}}", "header name"),
        ("providers: {v1: {dialect: openai, url: 'https://x.example'}}", "first segment"),
        ("prices: {x: {}}", "prices nothing"),
        ("server: {listen: '8080'}", "HOST:PORT"),
        ("server: {cors: ['*']}", "origin"),
        ("state: postgres://x", "sqlite:PATH"),
        ("at_limit: {status: 500}", "402"),
        ("at_limit: {degrade: {models: {gpt-4o: claude-haiku-4-5}}}", "at_limit.degrade.models.gpt-4o: speaks anthropic's wire format"),
        ("limits: [{name: a, spend: $1/day, at_limit: {degrade: {models: {gpt-4o: nowhere/x}}}}]", "no provider of this name"),
        ("teams: {t: {at_limit: {degrade: {models: {gpt-4o: gpt-4o}}}}}", "leads back to itself"),
        ("rules: [{at_limit: {degrade: {models: {a: b, b: c, c: a}}}}]", "rules[0].at_limit.degrade.models.a: leads back to itself"),
        ("at_limit: {degrade: {models: {gpt-4o: vertex/gemini-2.5-pro}}}", "no other provider's call can go there"),
        ("models: {x: {alias: a, route: fastest}}", "exactly one of"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error_with_its_place(problems, text, says):
    assert any(says in one for one in problems(text)), problems(text)


@pytest.mark.parametrize(
    "text",
    [
        KEY + "limits: [{name: x, match: {caller: a}, requests: 1/min}]",
        "callers: {anonymous: deny, pass_through: off}",
        "callers: {jwt: [{name: corp, issuer: i, jwks: https://x.example}]}\n"
        "limits: [{name: x, match: {caller: 'corp:*', 'claim:o': y}, per: 'claim:o', requests: 1/min}]",
        "providers: {azure: {url: 'https://x.openai.azure.com'}}\nfallback: {gpt-4o: [azure/gpt-4o, gpt-4o-mini]}",
        "providers: {azure: {url: 'https://x.openai.azure.com'}}\ndefault_provider: azure",
        "fallback: {llama: [together/meta-llama/Llama-3]}",
        "rules: [{match: {model: x}, retry: off}, {match: {model: y}, retry: {attempts: 5}}]",
        "rules: [{match: {model: x}, retry: off}, {retry: {attempts: 5}, guard: off}]",
        "rules: [{match: {model: x, not: {team: t}}, retry: off}, {match: {model: x}, retry: off}]\nteams: {t: {}}",
        "tiers: {a: {requests: off, concurrency: 0}}",
    ],
)
def test_a_policy_whose_names_all_lead_somewhere_is_accepted(problems, text):
    assert problems(text) == []


def test_a_caller_that_no_key_of_the_file_names_is_a_warning_for_the_state_may_hold_it(rulebook):
    warnings = rulebook(KEY + "limits: [{name: x, match: {caller: chat-frontend}, requests: 1/min}]").warnings
    assert warnings == ("p.yaml:2:36: limits[0].match.caller: no key of this file has this name; one minted with `sluice keys new` may",)
