"""Settings: every number has a reason and an origin, and no typo passes silently."""

import json
from datetime import date
from pathlib import Path

import pytest

from evalflow.adapters.home import write_setting
from evalflow.errors import ExitCode, UsageError
from evalflow.settings import SettingRow, Settings, load_settings, settings_with_origin

FILE = "evalflow.toml"


def write(home: Path, text: str) -> None:
    (home / FILE).write_text(text)


def row(home: Path, key: str) -> SettingRow:
    return next(row for row in settings_with_origin(home) if row.key == key)


def sentence(home: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(home)
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


def test_an_empty_home_has_the_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()
    assert {row.origin for row in settings_with_origin(tmp_path)} == {"default"}


def test_every_setting_gives_its_reason(tmp_path: Path) -> None:
    assert [row.key for row in settings_with_origin(tmp_path) if not row.reason.endswith(".")] == []


def test_the_environment_beats_the_file_and_the_file_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[sampling]\ntarget_per_day = 400\nuniform_share = 0.5\n")
    monkeypatch.setenv("EVALFLOW_SAMPLING__TARGET_PER_DAY", "500")
    assert row(tmp_path, "sampling.target_per_day")[:3] == (
        "sampling.target_per_day",
        500,
        "EVALFLOW_SAMPLING__TARGET_PER_DAY",
    )
    assert row(tmp_path, "sampling.uniform_share")[:3] == ("sampling.uniform_share", 0.5, FILE)
    assert row(tmp_path, "sampling.salt")[:3] == ("sampling.salt", "evalflow", "default")


def test_every_setting_can_be_given_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {row.key: row.value for row in settings_with_origin(tmp_path) if row.value is not None}
    given |= {
        "traffic_start": "2026-06-01",
        "traffic_end": "2026-08-23",
        "lake_url": "memory://x",
        "embedding.weights_sha256": "0",
        "judge.base_url": "http://127.0.0.1:1/v1",
        "judge.model": "m",
        "judge.api_key": "k",
        "review.token": "a-token-of-16-letters",
    }
    given |= {f"system.{name}": "x" for name in ("callable", "base_url", "model", "api_key", "system_prompt")}
    given |= {"system.version": "x", "system.scorer": "exact"}
    for key, value in given.items():
        name = "EVALFLOW_" + key.upper().replace(".", "__")
        monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))
    rows = list(settings_with_origin(tmp_path))
    assert [row.key for row in rows if not row.origin.startswith("EVALFLOW_")] == []
    assert load_settings(tmp_path).traffic_end == date(2026, 8, 23)


def test_a_whole_section_can_be_given_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[sampling]\ntarget_per_day = 400\nuniform_share = 0.5\n")
    monkeypatch.setenv("EVALFLOW_SAMPLING", '{"target_per_day": 500}')
    sampling = load_settings(tmp_path).sampling
    assert (sampling.target_per_day, sampling.uniform_share) == (500, 0.5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[sampling]\ntarget_perday = 400\n", "Setting sampling.target_perday is not usable"),
        ("[smapling]\ntarget_per_day = 400\n", "Setting smapling is not usable"),
        ("traffic_strat = 2026-06-01\n", "Setting traffic_strat is not usable"),
        ("[sampling]\ntarget_per_day = 'many'\n", "Setting sampling.target_per_day = 'many' is not usable"),
        ("[sampling]\ntarget_per_day = 0\n", "Setting sampling.target_per_day = 0 is not usable"),
        ("sampling = 3\n", "Setting sampling = 3 is not usable"),
        ("[privacy]\nentities = ['PASSPORT']\n", "Setting privacy.entities.0 = 'PASSPORT' is not usable"),
        (
            "traffic_start = 2026-06-02\ntraffic_end = 2026-06-01\n",
            "traffic_end 2026-06-01 lies before traffic_start 2026-06-02",
        ),
        ("[sampling\n", "is not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_refused_by_name_and_says_where_to_mend_it(
    text: str, named: str, tmp_path: Path
) -> None:
    write(tmp_path, text)
    assert named in sentence(tmp_path)
    assert str(tmp_path / FILE) in sentence(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[judge]\napikey = "sk-secret-123"\n', "Setting judge.apikey is not usable"),
        ('judge = "sk-secret-123"\n', "Setting judge is not usable"),
        ('[judge]\napi_key = ["sk-secret-123"]\n', "Setting judge.api_key is not usable"),
        ('[judge]\ntimeout_s = "sk-secret-123"\n', "Setting judge.timeout_s is not usable"),
        ('[review]\ntoken = "sk-secret-123"\n', "Setting review.token is not usable"),
        ('api_key = "sk-secret-123"\n', "Setting api_key is not usable"),
        ('[sampling]\nkey = "sk-secret-123"\n', "Setting sampling.key is not usable"),
        ("[judge]\napi_key = sk-secret-123\n", "is not valid TOML"),
    ],
)
def test_a_key_in_the_wrong_place_is_never_shown(text: str, named: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    assert named in sentence(tmp_path)
    assert "secret" not in sentence(tmp_path)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://u:pw@h:8000/v1?key=abc#abc", "http://h:8000/v1"),
        ("http://h/v1?mail=a@b", "http://h/v1"),
        ("u:pw@h/v1/", "h/v1"),
        ("http://u:pw@proxy/http://h/v1", "http://proxy/http://h/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://[broken", "http://[broken"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_user_and_query_and_used_whole(given: str, shown: str, tmp_path: Path) -> None:
    write(tmp_path, f"[judge]\nbase_url = {given!r}\n")
    assert row(tmp_path, "judge.base_url").value == shown
    assert load_settings(tmp_path).judge.base_url == given


def test_a_key_that_is_set_is_not_among_what_status_shows(tmp_path: Path) -> None:
    write(tmp_path, '[judge]\napi_key = "sk-secret-123"\n')
    assert "secret" not in str(list(settings_with_origin(tmp_path)))


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        (
            "EVALFLOW_SAMPLING__TARGT_PER_DAY",
            "4",
            "The variable EVALFLOW_SAMPLING__TARGT_PER_DAY sets nothing",
        ),
        ("EVALFLOW_TARGET_PER_DAY", "4", "The variable EVALFLOW_TARGET_PER_DAY sets nothing"),
        (
            "EVALFLOW_SAMPLING__TARGET_PER_DAY",
            "many",
            "Setting sampling.target_per_day = 'many' is not usable",
        ),
        ("EVALFLOW_SAMPLING", '{"targt": 4}', "Setting sampling.targt is not usable"),
        ("EVALFLOW_SAMPLING", "four", '"sampling"'),
        ("EVALFLOW_SOURCES__TRACES", "traces/", "lists and whole sections are written as JSON"),
    ],
)
def test_a_mistake_in_a_variable_is_refused_by_name(
    variable: str, value: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert named in sentence(tmp_path)


def test_the_variable_of_the_home_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLOW_HOME", str(tmp_path))
    assert load_settings(tmp_path) == Settings()


def test_writing_a_setting_leaves_the_rest_of_the_file_as_its_owner_wrote_it(tmp_path: Path) -> None:
    write(tmp_path, "# mine\n[sampling]\ntarget_per_day = 400  # because\n")
    write_setting(tmp_path, "traffic_start", date(2026, 6, 1))
    write_setting(tmp_path, "sources.traces", ["traces/"])
    text = (tmp_path / FILE).read_text()
    assert "# mine" in text
    assert "target_per_day = 400  # because" in text
    settings = load_settings(tmp_path)
    assert (settings.traffic_start, settings.sources.traces, settings.sampling.target_per_day) == (
        date(2026, 6, 1),
        ["traces/"],
        400,
    )
