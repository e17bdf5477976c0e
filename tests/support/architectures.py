"""Real architectures, exported from small configurations with random weights. Nothing is downloaded."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from .case import Inputs, ProgramCase, of_sizes

VOCABULARY = 97
_BATCH = Dim("batch", min=2, max=8)
_SEQUENCE = Dim("sequence", min=2, max=32)
_TARGET = Dim("target", min=2, max=20)
_HIDDEN = 64
_SIZES = ((3, 9), (2, 5), (5, 17))


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (batch, length))


def _text(batch: int, length: int) -> Inputs:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0
    return (), {"input_ids": _tokens(batch, length), "attention_mask": mask}


def _causal(batch: int, length: int) -> Inputs:
    tokens = _tokens(batch, length)
    return (), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}


_TEXT_SHAPES: dict[str, Any] = {"input_ids": {0: _BATCH, 1: _SEQUENCE}, "attention_mask": {0: _BATCH, 1: _SEQUENCE}}


class Tuples(nn.Module):
    """A model that answers with a tuple: its own output class would have to be imported by whoever loads the program."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()


class _Encoder(Tuples):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids, attention_mask, return_dict=False)


class _Decoder(Tuples):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, return_dict=False)


class _EncoderDecoder(Tuples):
    def forward(self, input_ids: torch.Tensor, decoder_input_ids: torch.Tensor, use_cache: bool) -> Any:
        return self.model(input_ids, decoder_input_ids=decoder_input_ids, use_cache=use_cache, return_dict=False)


class _Speech(Tuples):
    def forward(self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor, use_cache: bool) -> Any:
        return self.model(input_features, decoder_input_ids=decoder_input_ids, use_cache=use_cache, return_dict=False)


class _Vision(Tuples):
    def forward(self, pixel_values: torch.Tensor) -> Any:
        return self.model(pixel_values, return_dict=False)


def _bert(layers: int = 2) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=_HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=40,
    )
    return _Encoder(BertModel(config))


def _gpt2(layers: int = 2) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=_HIDDEN,
        n_layer=layers,
        n_head=4,
        n_positions=40,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _Decoder(GPT2LMHeadModel(config))


def _llama(layers: int = 2) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=_HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=40,
    )
    return _Decoder(LlamaForCausalLM(config))


def _t5(layers: int = 2) -> nn.Module:
    from transformers import T5Config, T5Model

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=_HIDDEN,
        d_kv=16,
        d_ff=96,
        num_layers=layers - 1,
        num_decoder_layers=layers,
        num_heads=4,
    )
    return _EncoderDecoder(T5Model(config))


def _vit(layers: int = 2) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=_HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
    )
    return _Vision(ViTModel(config))


def _whisper(layers: int = 1) -> nn.Module:
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=_HIDDEN,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    return _Speech(WhisperModel(config))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return functional.relu(y, inplace=True)


class ResidualNet(nn.Module):
    """A small ResNet: convolutions, batch norms, in-place additions and activations, pooling."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(_Block(8, 8, 1), _Block(8, 16, 2), *(_Block(16, 16, 1) for _ in range(2, blocks)))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.stem(x), 2)
        return self.head(functional.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))


def _residual(train: bool, blocks: int = 2) -> nn.Module:
    net = ResidualNet(blocks)
    generator = torch.Generator().manual_seed(7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net.train(train)


def _image(batch: int) -> Inputs:
    return (torch.randn(batch, 3, 16, 16),), {}


def _sequences(batch: int, source: int, target: int) -> Inputs:
    return (), {"input_ids": _tokens(batch, source), "decoder_input_ids": _tokens(batch, target), "use_cache": False}


def _speech(batch: int, target: int) -> Inputs:
    return (), {
        "input_features": torch.randn(batch, 16, 40),
        "decoder_input_ids": _tokens(batch, target),
        "use_cache": False,
    }


_REAL = frozenset({"architecture"})
_CAUSAL_SHAPES = {**_TEXT_SHAPES, "use_cache": None}

ARCHITECTURES: tuple[ProgramCase, ...] = (
    ProgramCase("bert", _bert, of_sizes(_text, *_SIZES), _TEXT_SHAPES, tags=_REAL),
    ProgramCase("gpt2", _gpt2, of_sizes(_causal, *_SIZES), _CAUSAL_SHAPES, tags=_REAL),
    ProgramCase("llama", _llama, of_sizes(_causal, *_SIZES), _CAUSAL_SHAPES, tags=_REAL),
    ProgramCase(
        "t5",
        _t5,
        of_sizes(_sequences, (3, 9, 7), (2, 5, 6), (5, 17, 3)),
        {"input_ids": {0: _BATCH, 1: _SEQUENCE}, "decoder_input_ids": {0: _BATCH, 1: _TARGET}, "use_cache": None},
        tags=_REAL,
    ),
    ProgramCase("vit", _vit, of_sizes(_image, (2,), (5,)), ({0: _BATCH},), tags=_REAL),
    ProgramCase(
        "whisper",
        _whisper,
        of_sizes(_speech, (3, 7), (2, 4)),
        {"input_features": {0: _BATCH}, "decoder_input_ids": {0: _BATCH, 1: _TARGET}, "use_cache": None},
        tags=_REAL,
    ),
    ProgramCase("residual_net", functools.partial(_residual, False), of_sizes(_image, (2,), (5,)), ({0: _BATCH},), tags=_REAL),
    ProgramCase(
        "residual_net_train",
        functools.partial(_residual, True),
        of_sizes(_image, (2,), (5,)),
        ({0: _BATCH},),
        functional=True,
        tags=frozenset({"mutation"}),
    ),
)

#: About 640 nodes: for benchmarks and for what must not grow faster than the program.
LLAMA_LIKE = ProgramCase(
    "llama_like", functools.partial(_llama, 8), of_sizes(_causal, *_SIZES), _CAUSAL_SHAPES, tags=frozenset({"benchmark"})
)

_DEEP = {
    "bert": functools.partial(_bert, 4),
    "gpt2": functools.partial(_gpt2, 6),
    "t5": functools.partial(_t5, 3),
    "vit": functools.partial(_vit, 6),
    "whisper": functools.partial(_whisper, 4),
    "residual_net": functools.partial(_residual, False, 12),
}
#: By the architectures' names the same with 214 to 640 nodes, for benchmarks: networks have more than two layers.
DEEP_ARCHITECTURES: dict[str, ProgramCase] = {
    case.name: dataclasses.replace(case, name=f"deep_{case.name}", module=_DEEP[case.name], tags=frozenset({"benchmark"}))
    for case in ARCHITECTURES
    if case.name in _DEEP
} | {"llama": LLAMA_LIKE}
