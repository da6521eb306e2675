"""What is found by name is what trying everything finds, in the same order."""

from hypothesis import given
from hypothesis import strategies as some

from proxy.exchange import Caller
from proxy.policy.lookup import Index, Table
from proxy.policy.match import compile_match, models
from proxy.policy.model_match import Match
from proxy.policy.plan import Facts

MODELS = some.sampled_from(["m", "m-latest", "m-2024-08-06", "m-0613", "m-mini", "n", "here/m", "here/m-0613", "there/n", ""])
PATTERNS = some.sampled_from(["m", "m-mini", "m-*", "*", "n", "here/m", "here/*", "*/m", "there/n", "m-latest", "here/m-0613"])
PROVIDERS = some.sampled_from(["here", "there"])


def tried(said, provider, model):
    found = said.get(f"{provider}/{model}") or said.get(model)
    return found or next((value for pattern, value in said.items() if models((pattern,))(provider, model)), None)


@given(some.dictionaries(PATTERNS, some.integers(0, 9)), PROVIDERS, MODELS)
def test_a_table_by_model_says_what_trying_each_line_says(said, provider, model):
    assert Table(said).of(provider, model) == tried(said, provider, model)


NAMES = some.sampled_from(["a", "b", "a*", "c"])
MATCHES = some.fixed_dictionaries(
    {}, optional={key: some.lists(NAMES, min_size=1) for key in ("caller", "key", "team", "tier")}
) | some.builds(lambda patterns: {"model": patterns}, some.lists(PATTERNS, min_size=1))


@given(
    some.lists(MATCHES, max_size=8),
    some.builds(
        Caller, some.sampled_from("abx"), some.just("minted"), tier=some.sampled_from(["a", None]), team=some.sampled_from(["b", None])
    ),
    some.none() | MODELS,
)
def test_an_index_leaves_out_nothing_that_matches_and_keeps_the_order(matches, caller, model):
    index, every = Index(), []
    for number, match in enumerate(matches):
        matcher = compile_match(Match.model_validate({key: tuple(names) for key, names in match.items()}))
        index.add(matcher, (number, matcher.test))
        every.append((number, matcher.test))
    facts = Facts(caller, "here", "chat", "POST", "/v1/chat/completions", "127.0.0.1", {}, model, None, True)
    assert [number for number, test in index.candidates(facts) if test(facts)] == [number for number, test in every if test(facts)]
    assert list(index) == every


def test_an_index_gives_no_entry_that_asks_for_another_name():
    index = Index()
    for name in ("ann", "bob"):
        index.add(compile_match(Match(caller=(name,))), name)
    facts = Facts(Caller("bob", "minted"), "here", "chat", "POST", "/", "127.0.0.1", {}, "m", None, True)
    assert index.candidates(facts) == ["bob"]
