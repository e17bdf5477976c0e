"""Public model classes of transformers, from small configurations with random weights. Nothing is downloaded.

Batch and sequence are dynamic as far as a model's own code lets them be (`Dim.AUTO`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from .architectures import VOCABULARY, Tuples
from .case import Inputs, ProgramCase, of_sizes

_AUTO = Dim.AUTO
_SEQUENCE = {0: _AUTO, 1: _AUTO}

# What configurations call the same things. A class takes what it knows and keeps the rest as attributes.
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 40),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), 2),
    "pad_token_id": 0,
    "d_kv": 8,
}
_IMAGE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


class _Encoder(Tuples):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)


class _Decoder(Tuples):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=False)


class _EncoderDecoder(Tuples):
    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False, return_dict=False)


class _Vision(Tuples):
    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.model(pixel_values=pixel_values, return_dict=False)


class _Audio(Tuples):
    def forward(self, input_values: torch.Tensor) -> Any:
        return self.model(input_values=input_values, return_dict=False)


class _Both(Tuples):
    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, pixel_values=pixel_values, return_dict=False)[:4]


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (batch, length))


def _text(batch: int, length: int) -> Inputs:
    tokens = _tokens(batch, length)
    return (), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _sequences(batch: int, length: int) -> Inputs:
    return (), {"input_ids": _tokens(batch, length), "decoder_input_ids": _tokens(batch, length - 2)}


def _image(batch: int, _length: int) -> Inputs:
    return (), {"pixel_values": torch.randn(batch, 3, 32, 32)}


def _sound(batch: int, length: int) -> Inputs:
    return (), {"input_values": torch.randn(batch, 100 * length)}


def _captioned(batch: int, length: int) -> Inputs:
    return (), {"input_ids": _tokens(batch, length), "pixel_values": torch.randn(batch, 3, 32, 32)}


@dataclass(frozen=True)
class _Kind:
    """What models of one kind take."""

    wrapper: Callable[[nn.Module], nn.Module]
    inputs: Callable[[int, int], Inputs]
    shapes: dict[str, Any]
    configuration: dict[str, Any] = field(default_factory=dict)


_ENCODER = _Kind(_Encoder, _text, {"input_ids": _SEQUENCE, "attention_mask": _SEQUENCE}, _TEXT)
_DECODER = _Kind(_Decoder, _text, {"input_ids": _SEQUENCE, "attention_mask": _SEQUENCE}, _TEXT)
_ENCODER_DECODER = _Kind(_EncoderDecoder, _sequences, {"input_ids": _SEQUENCE, "decoder_input_ids": _SEQUENCE}, _TEXT)
_VISION = _Kind(_Vision, _image, {"pixel_values": {0: _AUTO}}, _IMAGE)
_AUDIO = _Kind(_Audio, _sound, {"input_values": {0: _AUTO}}, _TEXT)
_BOTH = _Kind(_Both, _captioned, {"input_ids": _SEQUENCE, "pixel_values": {0: _AUTO}}, {})

_STAGES: dict[str, Any] = {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 16, "num_stages": 2}
_TWO_TOWERS: dict[str, Any] = {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 16}
_CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}

# Model class -> kind, configuration class, and what its configuration has beside that of the kind.
_MODELS: dict[str, tuple[_Kind, str, dict[str, Any]]] = {
    "BertModel": (_ENCODER, "BertConfig", {}),
    "RobertaModel": (_ENCODER, "RobertaConfig", {}),
    "DistilBertModel": (_ENCODER, "DistilBertConfig", {}),
    "AlbertModel": (_ENCODER, "AlbertConfig", {}),
    "ElectraModel": (_ENCODER, "ElectraConfig", {}),
    "MPNetModel": (_ENCODER, "MPNetConfig", {}),
    "DebertaV2Model": (_ENCODER, "DebertaV2Config", {}),
    "SqueezeBertModel": (_ENCODER, "SqueezeBertConfig", {}),
    "MobileBertModel": (_ENCODER, "MobileBertConfig", {"true_hidden_size": 32, "intra_bottleneck_size": 32}),
    "ModernBertModel": (_ENCODER, "ModernBertConfig", {}),
    "LayoutLMModel": (_ENCODER, "LayoutLMConfig", {}),
    "GPT2LMHeadModel": (_DECODER, "GPT2Config", {}),
    "GPTNeoForCausalLM": (
        _DECODER,
        "GPTNeoConfig",
        {"attention_types": [[["global", "local"], 1]], "num_key_value_heads": None},
    ),
    "GPTNeoXForCausalLM": (_DECODER, "GPTNeoXConfig", {}),
    "GPTJForCausalLM": (_DECODER, "GPTJConfig", {"rotary_dim": 4}),
    "OPTForCausalLM": (_DECODER, "OPTConfig", {}),
    "BloomForCausalLM": (_DECODER, "BloomConfig", {}),
    "FalconForCausalLM": (_DECODER, "FalconConfig", {}),
    "LlamaForCausalLM": (_DECODER, "LlamaConfig", {"num_key_value_heads": 2}),
    "MistralForCausalLM": (_DECODER, "MistralConfig", {"num_key_value_heads": 2, "sliding_window": 8}),
    "MixtralForCausalLM": (_DECODER, "MixtralConfig", {"num_local_experts": 2}),
    "Qwen2ForCausalLM": (_DECODER, "Qwen2Config", {"num_key_value_heads": 2}),
    "Qwen3ForCausalLM": (_DECODER, "Qwen3Config", {"head_dim": 8, "num_key_value_heads": 2}),
    "GemmaForCausalLM": (_DECODER, "GemmaConfig", {"head_dim": 8}),
    "Gemma2ForCausalLM": (_DECODER, "Gemma2Config", {"head_dim": 8}),
    "PhiForCausalLM": (_DECODER, "PhiConfig", {}),
    "Phi3ForCausalLM": (_DECODER, "Phi3Config", {}),
    "OlmoForCausalLM": (_DECODER, "OlmoConfig", {}),
    "StableLmForCausalLM": (_DECODER, "StableLmConfig", {}),
    "CohereForCausalLM": (_DECODER, "CohereConfig", {}),
    "MambaForCausalLM": (_DECODER, "MambaConfig", {"state_size": 4, "time_step_rank": 4}),
    "T5Model": (_ENCODER_DECODER, "T5Config", {}),
    "BartModel": (_ENCODER_DECODER, "BartConfig", {}),
    "PegasusModel": (_ENCODER_DECODER, "PegasusConfig", {}),
    "ViTModel": (_VISION, "ViTConfig", {}),
    "DeiTModel": (_VISION, "DeiTConfig", {}),
    "BeitModel": (_VISION, "BeitConfig", {}),
    "Dinov2Model": (_VISION, "Dinov2Config", {}),
    "CLIPVisionModel": (_VISION, "CLIPVisionConfig", {}),
    "SiglipVisionModel": (_VISION, "SiglipVisionConfig", {}),
    "SwinModel": (
        _VISION,
        "SwinConfig",
        {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_attention_heads": [2, 4], "window_size": 4},
    ),
    "ConvNextModel": (_VISION, "ConvNextConfig", _STAGES),
    "ResNetModel": (_VISION, "ResNetConfig", _STAGES),
    "MobileNetV2Model": (_VISION, "MobileNetV2Config", {"depth_multiplier": 0.25}),
    "SegformerModel": (
        _VISION,
        "SegformerConfig",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [4, 1],
            "hidden_sizes": [16, 32],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
        },
    ),
    "Wav2Vec2Model": (_AUDIO, "Wav2Vec2Config", _CONVOLUTIONS),
    "CLIPModel": (_BOTH, "CLIPConfig", _TWO_TOWERS),
    "SiglipModel": (_BOTH, "SiglipConfig", _TWO_TOWERS),
}


def _build(name: str) -> nn.Module:
    kind, configuration, more = _MODELS[name]
    library = importlib.import_module("transformers")
    made = getattr(library, configuration)(**{**kind.configuration, **more})
    return kind.wrapper(getattr(library, name)(made))


def _case(name: str) -> ProgramCase:
    kind = _MODELS[name][0]
    inputs = of_sizes(kind.inputs, (3, 9), (2, 12))
    return ProgramCase(name, functools.partial(_build, name), inputs, kind.shapes, tags=frozenset({"public"}))


PUBLIC_MODELS: tuple[ProgramCase, ...] = tuple(map(_case, _MODELS))
