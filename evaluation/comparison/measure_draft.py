"""What one student gives the teacher as a draft, kept as a file."""

from dataclasses import asdict
from typing import Any

from evaluation.comparison.kept import keep_json
from evaluation.comparison.shared_settings import SharedSettings, hash_of
from evaluation.judging.progress import StageProgress
from evaluation.models.draft_speed import DraftSpeed, measure_draft, why_no_draft
from evaluation.models.on_demand import ModelOnDemand
from evaluation.models.sources import ModelSource, list_sources, load_model, model_identity


def measure_drafting(
    source: ModelSource, shared: SharedSettings, progress: StageProgress
) -> tuple[DraftSpeed | None, str | None]:
    """The speed with a student's drafts, or None and why there is none; kept in `out/drafts`.

    The teacher and the student are in memory together.

    Raises: EvaluationError when one of them cannot be loaded.
    """
    config, drafted = shared.config, shared.config.as_draft
    if drafted is None or source.is_teacher:
        return None, None
    (teacher,) = list_sources((), config.teacher, config.revision)
    settings = config.latency
    key = hash_of(
        [model_identity(teacher), model_identity(source), shared.device_name, shared.dtype_name,
         settings.signature, drafted, shared.timed_texts]
    )  # fmt: skip

    def make() -> dict[str, Any]:
        models = [_on_demand(one, shared) for one in (teacher, source)]
        try:
            (whole, tokenizer), (student, own) = (model() for model in models)
            longest = settings.prompt_tokens + settings.new_tokens
            why = why_no_draft(whole, student, (tokenizer, own), longest)
            if why is not None:
                return {"skipped": why}
            prompts = shared.timed_prompts(tokenizer)[: settings.prompts]
            return asdict(
                measure_draft(
                    whole, student, tokenizer, prompts, settings, drafted,
                    lambda: progress("as a draft", 1, len(prompts)),
                )
            )  # fmt: skip
        finally:
            for model in models:
                model.close()

    kept = keep_json(config.out / "drafts" / f"{key}.json", make)
    return (None, kept["skipped"]) if "skipped" in kept else (DraftSpeed(**kept), None)


def _on_demand(source: ModelSource, shared: SharedSettings) -> ModelOnDemand:
    return ModelOnDemand(lambda: load_model(source, shared.dtype, shared.device), shared.device)
