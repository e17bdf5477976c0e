"""Values that a stranger would put into an archive. What they try to do is seen by `fuzz.effects`."""

from __future__ import annotations

from typing import Any, Final

MODULE: Final = "retraced_fuzz_module"
"""A module that does not exist: an attempt to import it is the file's doing."""

MARKER: Final = "retraced_fuzz_marker"
"""A file that only code out of an archive would make."""

_CODE: Final = f"__import__('{MODULE}')"

STRINGS: Final[tuple[str, ...]] = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\nb",
        "\t",
        "x" * 2_000,
        "é",
        "\u202e",
        "\x1b[31m",
        "\ud800",
        "\U0001f4a3",
        "%s%n{0}{x!r}",
        "//",
        "..",
    ),
    *(
        _CODE,
        f"x={_CODE}",
        f"x: {_CODE}",
        f"x\nimport {MODULE}",
        f"x'; import {MODULE} #",
        f"x) or ({_CODE}",
        f"lambda: {_CODE}",
    ),
    *(f"open('{MARKER}', 'w')", f"[open('{MARKER}', 'w') for x in [1]]", f'exec(\'open("{MARKER}", "w")\')'),
    *(f"Symbol('s0', **{{'x': {_CODE}}})", "().__class__.__mro__[1].__subclasses__()", "eval", "Integer(1).__class__"),
    *(
        f"../../{MARKER}",
        f"/{MARKER}",
        f"C:\\{MARKER}",
        "/etc/passwd",
        "/proc/self/mem",
        "weight_0/../weight_1",
        "weight_-1",
        "weight_0\0",
    ),
    *(
        "self",
        "None",
        "True",
        "class",
        "import",
        "forward",
        "__init__",
        "__class__",
        "_modules",
        "input",
        "id",
        "print",
        "device",
    ),
    *(
        "root.forward",
        "a.b.c",
        "a..b",
        ".a",
        "a.",
        "0",
        "-1",
        "1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "null",
        "true",
        "[]",
        "{}",
    ),
    *(
        "custom_obj_0",
        "opaque_obj_0",
        "tensor_0",
        "weight_0",
        "weight_99999999999",
        "tensor_00",
        "s0",
        "u0",
        "u999999",
        "zuf0",
        "s" * 99,
    ),
)

TARGETS: Final[tuple[str, ...]] = (
    *("os.system", "builtins.eval", "builtins.exec", "builtins.__import__", "operator.attrgetter", "_operator.attrgetter"),
    *(
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.classes.load_library",
        "torch._C._jit_clear_class_registry",
    ),
    *(f"{MODULE}.run", f"torch.ops.{MODULE}.x.default", "torch.ops", "torch.ops.aten", "torch.ops.aten.add", "torch.nn.Module"),
    *(
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten.save.default",
        "torch.ops.prim.Print.default",
    ),
    *(
        "torch.ops.aten.__getitem__.t",
        "torch.ops.aten.eval.default",
        "torch.ops.aten.format.default",
        "torch.ops.aten.append.t",
    ),
    *("torch.ops.prim.TupleIndex.default", "torch.ops.prim.device.default", "torch.ops.prims.convert_element_type.default"),
    *(
        f"torch.ops.higher_order.{name}"
        for name in ("cond", "while_loop", "map_impl", "scan", "wrap", "wrap_with_set_grad_enabled")
    ),
    *(
        f"torch.ops.higher_order.{name}"
        for name in ("triton_kernel_wrapper_mutation", "run_const_graph", "call_torchbind", "print")
    ),
    *(
        f"torch.ops.higher_order.{name}"
        for name in ("invoke_subgraph", "strict_mode", "hints_wrapper", "out_dtype", "with_effects")
    ),
    *(
        f"torch.ops.higher_order.{name}"
        for name in ("auto_functionalized", "auto_functionalized_v2", "executorch_call_delegate")
    ),
    *(
        "_operator.getitem",
        "_operator.pow",
        "_operator.lshift",
        "_operator.mul",
        "_operator.floordiv",
        "_operator.mod",
        "math.trunc",
    ),
    *(
        "torch._sym_sqrt",
        "torch.sym_int",
        "torch.sym_float",
        "torch.sym_not",
        "torch.sym_max",
        "torch.sym_ite",
        "math.factorial",
    ),
    *("torch._C._set_grad_enabled", "torch.amp.autocast_mode._enter_autocast", "torch._functorch.predispatch._add_batch_dim"),
    *(
        f"torch.ops.aten.{name}"
        for name in (
            *(
                "full.default",
                "empty.memory_format",
                "arange.default",
                "arange.start_step",
                "linspace.default",
                "eye.m",
                "zeros.default",
            ),
            *(
                "repeat.default",
                "expand.default",
                "tile.default",
                "broadcast_to.default",
                "pad.default",
                "repeat_interleave.self_int",
            ),
            *("view.default", "reshape.default", "as_strided.default", "unfold.default", "flatten.using_ints", "unflatten.int"),
            *(
                "to.dtype",
                "to.device",
                "to.dtype_layout",
                "contiguous.default",
                "clone.default",
                "detach.default",
                "alias.default",
            ),
            *("transpose.int", "permute.default", "select.int", "slice.Tensor", "split.Tensor", "chunk.default", "unbind.int"),
            *(
                "sum.default",
                "cat.default",
                "stack.default",
                "einsum.default",
                "matmul.default",
                "linear.default",
                "conv2d.default",
            ),
            *("item.default", "_local_scalar_dense.default", "nonzero.default", "sym_size.int", "_assert_scalar.default"),
            *("set_.source_Storage", "resize_.default", "copy_.default", "add_.Tensor", "out_dtype.default", "narrow.default"),
            *(
                "sym_constrain_range.default",
                "sym_constrain_range_for_size.default",
                "_assert_async.msg",
                "tensor_split.sections",
            ),
            *("movedim.int", "squeeze.dims", "expand_as.default", "view_as.default", "type_as.default", "dropout.default"),
            *(
                "batch_norm.default",
                "lstm.input",
                "gru.input",
                "embedding.default",
                "pixel_shuffle.default",
                "upsample_nearest2d.vec",
            ),
        )
    ),
)

INTEGERS: Final[tuple[int, ...]] = (
    *(
        0,
        1,
        -1,
        2,
        3,
        7,
        8,
        63,
        64,
        65,
        127,
        255,
        256,
        1_000,
        65_535,
        1 << 20,
        (1 << 31) - 1,
        1 << 31,
        -(1 << 31),
        (1 << 32) + 1,
    ),
    *(1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 64), 10**40, 10**400),
)

# Anything that JSON can hold.
ATOMS: Final[tuple[Any, ...]] = (
    *(None, True, False, 0.0, -0.0, 1.5, 1e308, float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], {"": None}),
    *("", "0", "x", [0] * 200, {"as_int": 1}, {"as_none": True}, {"as_tensor": {"name": "x"}}, {"as_string": _CODE}),
)

RECORDS: Final[tuple[str, ...]] = (
    *("data/constants/custom_obj_0", "data/constants/opaque_obj_0", "data/constants/tensor_0", "data/weights/weight_0"),
    *("data/aotinductor/model/model.so", "data/aotinductor/model/model.wrapper.cpp", f"data/aotinductor/../../{MARKER}"),
    *(
        "models/other.json",
        "models/model.json",
        "MODELS/MODEL.JSON",
        "models/../models/model.json",
        "models/",
        "models/x/y.json",
    ),
    *("extra/note.txt", f"extra/../../{MARKER}", "data.pkl", "constants.pkl", "code/__torch__.py", "version", ".data/version"),
    *(
        "data/sample_inputs/model.pt",
        "data/sample_inputs/other.pt",
        "byteorder",
        "archive_format",
        "archive_version",
        "a\0b",
        "\\a",
    ),
    *("data/weights/model_weights_config.json", "data/constants/model_constants_config.json", "", "/", "x" * 3_000),
)
