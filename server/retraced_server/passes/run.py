"""Runs a pipeline of passes on a program, in process. The workers call this, and so can a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import fx
from torch.export import ExportedProgram

from retraced_server.analysis.graphs import count_nodes
from retraced_server.collector import collector_paused
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes.base import GraphPass, ProgramPass, ProgramPassResult, kept_names, preserved_modules
from retraced_server.passes.ir_level import is_above, require_level
from retraced_server.passes.provenance import ProvenanceLedger
from retraced_server.passes.raised import explained
from retraced_server.passes.registry import OWN_PROVIDER, RegistrationError, catalogue, create_pass, info_of
from retraced_server.pipeline.catalogue import IrLevel, WeightsNeed
from retraced_server.pipeline.domain import PassReport, Provenance, RetraceMode
from retraced_server.pipeline.parse import PassCall, parse_pipeline
from retraced_server.retrace import ExportPass, ExportPassError, PassContext, PassError, PassResult, RetraceOutcome
from retraced_server.retrace.build_program import build_program, check_program, check_signature
from retraced_server.retrace.check_regions import check_regions
from retraced_server.retrace.cross_check import run_checked
from retraced_server.retrace.edited_run import EditedRun, pass_name
from retraced_server.retrace.errors import InvalidGraphError
from retraced_server.retrace.held_programs import ProgramState
from retraced_server.retrace.pass_state import state_of
from retraced_server.retrace.program_edit import ProgramEdit, changed_outputs
from retraced_server.retrace.weights import WeightChanges

# How many nodes are visited between two calls of `progress`.
_PROGRESS_NODES = 64

AnyPass = GraphPass | ProgramPass


class PipelineObserver(Protocol):
    """What `run_pipeline` calls while a pipeline runs."""

    def pass_started(self, index: int, count: int, name: str, text: str) -> None:
        """Note that a pass begins. `index` counts from 0; `text` is canonical pipeline text."""

    def progress(self, done: int, total: int) -> None:
        """Note that the running pass has visited `done` of `total` nodes."""

    def pass_finished(self, index: int, report: PassReport) -> None:
        """Note that a pass has ended."""


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made of a program.

    Attributes:
        program: The program after the last pass: the input's own object where no pass modified it.
        modified: Whether any pass modified it.
        reports: What each pass did, in order.
        provenance: For every node of `program` where it came from, by `name`, or `true_graph_0:name` in a subgraph.
        remarks: What had to be given up when the program was put together.
    """

    program: ExportedProgram
    modified: bool
    reports: tuple[PassReport, ...]
    provenance: Mapping[str, Provenance]
    remarks: tuple[str, ...] = ()


@dataclass
class PipelineStep:
    """One pass of a pipeline, constructed: its name, its canonical text, and the pass itself."""

    name: str
    text: str
    instance: AnyPass

    @property
    def takes(self) -> IrLevel:
        """The level of the programs that it takes."""
        info = info_of(self.instance)
        return IrLevel.ANY if info is None else info.ir_level

    @property
    def reads(self) -> WeightsNeed:
        """What it has declared to read of weights. A pass that is not registered has nothing to declare it by."""
        info = info_of(self.instance)
        return WeightsNeed.VALUES if info is None else info.needs_weights

    @property
    def gives(self) -> IrLevel | None:
        """The level that a program is of after it at least, or `any` where that is what it was before; None where nobody knows."""
        if isinstance(self.instance, ProgramPass):
            return self.instance.gives
        info = info_of(self.instance)
        return IrLevel.ANY if info is not None and info.provider == OWN_PROVIDER else None


@dataclass
class _Totals:
    """What one pass reports besides what the runner sees."""

    modified: bool
    rewrites: int = 0
    remarks: tuple[str, ...] = ()
    new_guards: tuple[str, ...] = field(default=())


def run_pipeline(
    program: ExportedProgram,
    pipeline: str | Sequence[str | AnyPass | PipelineStep],
    *,
    mode: RetraceMode | str = RetraceMode.INCREMENTAL,
    refuse_new_guards: bool = False,
    check: bool = False,
    observer: PipelineObserver | None = None,
) -> PipelineResult:
    """Run passes on a program, one after the other.

    Args:
        program: The program. It is left as it is, but for its shape environment: that learns what new nodes need.
        pipeline: Pipeline text such as `decompose,cse,dce`, or a sequence of texts, pass objects and what `create_step` gives.
        mode: How nodes that a pass leaves alone are treated: `incremental` reuses what is recorded for them, `full` executes every operator
            again and compares.
        refuse_new_guards: Fail when a pass's new nodes add guards on symbolic shapes that narrow what the program accepts, instead of reporting
            them.
        check: Run every pass in full mode too, which leaves no trace but that hooks are called twice, and fail where it gives something else.
            For samples of what a server does in incremental mode; in full mode it means nothing.
        observer: Hears of progress.

    Raises:
        RetracedError: PIPELINE_SYNTAX, PASS_UNKNOWN, OPTION_UNKNOWN or OPTION_INVALID for the text; PASS_FAILED where a pass raised
            (its error is the `__cause__`) or takes programs of another level than it would get, PASS_OUTPUT_INVALID where it made a
            program that is not valid, and NEW_GUARDS. Nothing is left behind.
        TypeError: The pipeline has something that is no pass.
    """
    return _Run(program, _steps(pipeline), RetraceMode(mode), refuse_new_guards, check, observer).run()


def check_pipeline(program: ExportedProgram, pipeline: str | Sequence[str | AnyPass | PipelineStep]) -> None:
    """Check before anything runs what can be known of a pipeline then; `run_pipeline` does so too.

    Raises:
        RetracedError: As `run_pipeline`: of the text; PASS_FAILED where a pass takes programs of another level than it will get.
        TypeError: The pipeline has something that is no pass.
    """
    _Run(program, _steps(pipeline), RetraceMode.INCREMENTAL, refuse_new_guards=False, check=False, observer=None).check_levels()


def create_step(call: PassCall) -> PipelineStep:
    """Construct the pass that a parsed pipeline calls.

    Raises:
        RetracedError: PASS_UNKNOWN where it is not registered in this process, OPTION_INVALID where its constructor refuses the options.
    """
    try:
        return PipelineStep(call.info.name, str(call), create_pass(call))
    except RegistrationError as error:
        reason = Reason.OPTION_INVALID if call.info.name in catalogue() else Reason.PASS_UNKNOWN
        raise RetracedError(reason, str(error), metadata={"pass": call.info.name}) from error


def _steps(pipeline: str | Sequence[str | AnyPass | PipelineStep]) -> list[PipelineStep]:
    steps: list[PipelineStep] = []
    for item in [pipeline] if isinstance(pipeline, str) else pipeline:
        if isinstance(item, str):
            steps += map(create_step, parse_pipeline(item, catalogue()).passes)
        elif isinstance(item, PipelineStep):
            steps.append(item)
        else:
            if isinstance(item, type) or not (isinstance(item, ProgramPass) or callable(item)):
                wanted = f"an instance of it: {item.__name__}()" if isinstance(item, type) else "text or an instance of a pass"
                raise TypeError(f"{item!r} is no pass; give {wanted}")
            steps.append(PipelineStep(pass_name(item), pass_name(item), item))
    return steps


def _apply(instance: GraphPass, module: fx.GraphModule, *, check: bool) -> tuple[PassResult, RetraceOutcome | None]:
    """Run a pass on a graph module, which is left as it is, and find what became of the nodes."""
    if isinstance(instance, ExportPass):
        result = run_checked(instance, module) if check else instance(module)
        return result, state_of(instance).outcome
    # Passes of torch's change the graph that they are given, and do not always say so.
    run = EditedRun(instance, instance, ExportPass)
    return run.on_copy(module), run.outcome


class _Run:
    """One run of a pipeline."""

    def __init__(
        self,
        program: ExportedProgram,
        steps: list[PipelineStep],
        mode: RetraceMode,
        refuse_new_guards: bool,
        check: bool,
        observer: PipelineObserver | None,
    ) -> None:
        self._input = program
        self._edit = ProgramEdit(program)
        self._steps = steps
        self._mode = mode
        self._refuse_new_guards = refuse_new_guards
        self._check = check and mode is RetraceMode.INCREMENTAL
        self._observer = observer
        self._ledger = ProvenanceLedger()
        self._remarks: list[str] = []
        self._last_modifying = 0
        # Weights that passes have discarded, and that something read then.
        self._discarded: set[str] = set()

    def check_levels(self) -> None:
        """Check that each pass is given programs of the level that it takes, as far as that is known before they run."""
        given = IrLevel.ANY
        for index, step in enumerate(self._steps):
            if is_above(step.takes, given):
                self._require_level(self._input.graph_module, index)
            if step.gives is None:
                # The passes from here on are checked when their turn comes.
                return
            given = step.gives if is_above(step.gives, given) else given

    def _require_level(self, module: fx.GraphModule, index: int) -> None:
        step = self._steps[index]
        try:
            require_level(module, step.takes, step.name)
        except ExportPassError as error:
            raise self._failure(Reason.PASS_FAILED, index, error) from error

    def run(self) -> PipelineResult:
        self.check_levels()
        start = self._edit
        try:
            reports = []
            for index, step in enumerate(self._steps):
                with collector_paused():
                    reports.append(self._step(index, step))
            with collector_paused():
                program = self._built()
        except BaseException:
            start.discard()
            raise
        return PipelineResult(
            program,
            program is not self._input,
            tuple(reports),
            self._ledger.provenance(program.graph_module),
            tuple(self._remarks),
        )

    def _step(self, index: int, step: PipelineStep) -> PassReport:
        self._require_level(self._edit.graph_module, index)
        before = count_nodes(self._edit.graph_module)
        if self._observer is not None:
            self._observer.pass_started(index, len(self._steps), step.name, step.text)
        started = time.perf_counter()
        try:
            if isinstance(step.instance, ProgramPass):
                totals = self._program_pass(index, step, step.instance)
            else:
                totals = self._graph_pass(index, step, step.instance, before)
        except InvalidGraphError as error:
            raise self._failure(Reason.PASS_OUTPUT_INVALID, index, error) from error
        # What a hook raises is of its own type too, which may be any.
        except PassError as error:
            raise self._failure(Reason.PASS_FAILED, index, error) from error
        except RetracedError:
            raise
        except Exception as error:
            raise self._failure(Reason.PASS_FAILED, index, error) from error
        if totals.new_guards and self._refuse_new_guards:
            guards = ", ".join(totals.new_guards)
            raise self._failure(Reason.NEW_GUARDS, index, ExportPassError(f"new nodes add guards, which are refused: {guards}"))
        report = PassReport(
            step.name,
            step.text,
            totals.modified,
            totals.rewrites,
            time.perf_counter() - started,
            before,
            count_nodes(self._edit.graph_module),
            totals.remarks,
            totals.new_guards,
        )
        if self._observer is not None:
            self._observer.pass_finished(index, report)
        return report

    def _graph_pass(self, index: int, step: PipelineStep, instance: GraphPass, nodes: int) -> _Totals:
        edit = self._edit
        renamed = map(edit.name_now, kept_names(edit.program))
        context = PassContext(
            self._mode.value,
            frozenset(name for name in renamed if name is not None),
            preserved_modules(edit.program),
            self._progress(nodes) if self._observer is not None else None,
            weights_of=lambda: edit.weights(step.reads.value),
        )
        before, state = edit.graph_module, ProgramState(self._input)
        try:
            with context:
                result, outcome = _apply(instance, before, check=self._check)
        finally:
            changes = state.put_back()
        remarks, weights = tuple(context.remarks), context.weight_changes() or WeightChanges()
        if changes:
            edit.take_state(changes)
        edit.take_weights(weights)
        if not result.modified:
            wrote = self._remove_weights(index, weights) or bool(changes or weights.replaced)
            self._last_modifying = index if wrote else self._last_modifying
            return _Totals(wrote, context.rewrites if wrote else 0, remarks)
        if outcome is None:
            raise changed_outputs(before, result.graph_module)
        self._last_modifying = index
        with self._checking_output_of(index):
            lifted = edit.apply(result.graph_module, outcome)
            check_signature(edit)
            check_regions(before, result.graph_module)
        self._ledger.record(step.text, outcome.origins, outcome.copied, lifted)
        self._remove_weights(index, weights)
        # A pass may have the same guard added in each of several visits.
        return _Totals(True, context.rewrites or outcome.new_nodes, remarks, tuple(dict.fromkeys(context.new_guards)))

    def _remove_weights(self, index: int, weights: WeightChanges) -> bool:
        with self._checking_output_of(index):
            gone = self._edit.remove_weights(weights.removed)
        self._discarded |= weights.removed.keys() - gone
        return bool(gone)

    def _program_pass(self, index: int, step: PipelineStep, instance: ProgramPass) -> _Totals:
        program = self._built()
        # Of a plugin's class anything may come.
        result: object = instance.run(program)
        if not isinstance(result, ProgramPassResult):
            raise ExportPassError(f"it returned a {type(result).__name__}, not a ProgramPassResult")
        if not isinstance(result.program, ExportedProgram):
            raise ExportPassError(f"its result has a {type(result.program).__name__}, not an ExportedProgram")
        if result.modified is (result.program is program):
            said = "it changed the program, and gave back" if result.modified else "it changed nothing, and did not give back"
            raise ExportPassError(f"it says that {said} the object that it was given; a program is never changed in place")
        if result.modified:
            self._last_modifying = index
            with self._checking_output_of(index):
                check_program(program, result.program)
            self._ledger.record(step.text, result.origins, frozenset(), {})
        self._edit = ProgramEdit(result.program)
        return _Totals(result.modified, result.rewrites, result.remarks, result.new_guards)

    def _built(self) -> ExportedProgram:
        # What was read still when the pass that discards it had ended.
        self._discarded -= self._edit.remove_weights(dict.fromkeys(self._discarded, False))
        # Nothing is wrong with a program that no pass has modified.
        with self._checking_output_of(self._last_modifying):
            program, remarks = build_program(self._edit)
        self._remarks.extend(remarks)
        return program

    def _progress(self, total: int) -> Callable[[int], None]:
        observer = self._observer

        def progress(done: int) -> None:
            if observer is not None and (done % _PROGRESS_NODES == 0 or done == total):
                observer.progress(min(done, total), total)

        return progress

    @contextmanager
    def _checking_output_of(self, index: int) -> Iterator[None]:
        try:
            yield
        except ExportPassError as error:
            raise self._failure(Reason.PASS_OUTPUT_INVALID, index, error) from error

    def _failure(self, reason: Reason, index: int, error: Exception) -> RetracedError:
        step = self._steps[index]
        text, facts = explained(step.instance, error)
        metadata = {
            "pass": step.name,
            "pass_index": str(index),
            "completed_pipeline": ",".join(done.text for done in self._steps[:index]),
            "remaining_pipeline": ",".join(left.text for left in self._steps[index:]),
            **facts,
        }
        return RetracedError(reason, f"pass {index + 1} of {len(self._steps)}, `{step.text}`: {text}", metadata=metadata)
