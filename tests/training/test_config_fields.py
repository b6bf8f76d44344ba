import pytest

from ecg_transformers import DBetaConfig
from ecg_transformers.training.config_fields import check_fields, get_field, has_field, set_field


def test_fields_of_parts():
    config = DBetaConfig()
    assert has_field(config, "hidden_size") and has_field(config, "ecg_config.hidden_dropout")
    for name in ("", "ecg_config.", "ecg_config.depth", "voice_config.hidden_size", "hidden_size.hidden_size"):
        assert not has_field(config, name)
        assert get_field(config, name) is None
        with pytest.raises(ValueError, match="no field"):
            set_field(config, name, 1)
    set_field(config, "ecg_config.hidden_dropout", 0.4)
    assert config.ecg_config.hidden_dropout == get_field(config, "ecg_config.hidden_dropout") == 0.4
    with pytest.raises(ValueError, match="name one of its fields, as ecg_config.<field>"):
        set_field(config, "ecg_config", 3)
    with pytest.raises(ValueError, match="ecg_config.num_hidden_layers='two' does not fit DBetaECGConfig"):
        set_field(config, "ecg_config.num_hidden_layers", "two")


def test_parts_check_themselves():
    config = DBetaConfig()
    check_fields(config)
    set_field(config, "ecg_config.num_attention_heads", 5)
    with pytest.raises(ValueError, match="`hidden_size` must be a multiple of `num_attention_heads`"):
        check_fields(config)
