#!/usr/bin/env python3
"""Turns a Python config of MMEngine or MMCV 1.x into a YAML config of halfstep.

    tools/mm_config_to_yaml.py CONFIG.py [-o CONFIG.yaml]

The file is parsed, not run: literals, dict(), list() and tuple() calls, names assigned earlier in it, arithmetic on numbers and
joined texts are understood. Each file of a chain of _base_ is converted alone; _base_ keeps its entries with .yaml for .py.
What means the same goes to the key it has here (optimizer, optimizer_config, fp16, lr_config, runner, ... too); what could not be
carried over is listed, with file and line, on standard error and in comments at the end. halfstep reads the result strictly: keys
of your own classes it doesn't know are errors there. Needs Python 3 alone.
"""
import argparse
import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from python_literals import Reader, is_number  # noqa: E402
from yaml_text import yaml_block  # noqa: E402


ALREADY = ("model", "loss", "optim_wrapper", "param_scheduler", "custom_hooks", "train_cfg", "test_dataloader", "randomness", "load_from")
EPOCH_LOOPS = ("EpochBasedRunner", "EpochBasedTrainLoop")
ITERATION_LOOPS = ("IterBasedRunner", "IterBasedTrainLoop")


class Converter:
    """The config as halfstep has it, and what could not be carried over."""

    def __init__(self, reader):
        self.reader = reader
        self.given = dict(reader.values)
        self.problem = reader.problem
        self.result = {}
        self.bases()
        for name in list(self.given):
            if name in ALREADY and self.given[name] is not None:
                self.result[name] = self.take(name)
        for convert in (self.dataloader, self.data, self.optimizer, self.scheduler, self.learning_rate, self.loop, self.hooks, self.rest):
            convert()

    def take(self, name):
        return self.given.pop(name, None)

    def lost(self, name, why):
        self.problem(self.reader.lines.get(name.split(".")[0], 0), f"{name}: {why}")

    def left_over(self, name, values, why="has no counterpart"):
        for key in values or {}:
            self.lost(f"{name}.{key}", why)

    def taken_dict(self, name):
        """A dict given under a name; None where there is none."""
        value = self.take(name)
        if value is None or isinstance(value, dict):
            return value
        self.lost(name, "is no dict")
        return None

    def put(self, path, value):
        target = self.result
        for key in path[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            self.lost(path[0], "is no dict")
        elif path[-1] in target:
            self.problem(0, f"{'.'.join(path)}: is given twice, by an older and a newer key; the older one is left out")
        else:
            target[path[-1]] = value

    def bases(self):
        files = self.take("_base_")
        if files is None:
            return
        renamed = []
        for file in files if isinstance(files, list) else [files]:
            if not isinstance(file, str) or "::" in file or not file.endswith((".py", ".yaml", ".yml")):
                self.lost("_base_", f"{file!r} is no file beside this one")
            else:
                renamed.append(re.sub(r"\.py$", ".yaml", file))
        self.result["_base_"] = renamed[0] if len(renamed) == 1 and not isinstance(files, list) else renamed

    def dataloader(self):
        loader = self.taken_dict("train_dataloader")
        if loader is None:
            return
        sampler = loader.pop("sampler", None)
        if isinstance(sampler, dict) and sampler.pop("type", None) in ("DefaultSampler", None) and set(sampler) <= {"shuffle"}:
            loader["shuffle"] = sampler.get("shuffle", True)
        elif sampler is not None:
            self.lost("train_dataloader.sampler", "has no counterpart")
        for key in ("num_workers", "persistent_workers", "pin_memory", "collate_fn", "prefetch_factor"):
            if key in loader:
                loader.pop(key)
                self.lost(f"train_dataloader.{key}", "has no counterpart")
        self.result["train_dataloader"] = loader

    def data(self):
        data = self.taken_dict("data")
        if data is None:
            return
        batch, train = data.pop("samples_per_gpu", None), data.pop("train", None)
        if isinstance(train, dict):
            self.put(["train_dataloader"], {**({"batch_size": batch} if batch is not None else {}), "shuffle": True, "dataset": train})
        elif batch is not None:
            self.put(["train_dataloader"], {"batch_size": batch})
        self.left_over("data", data)

    def optimizer(self):
        optimizer = self.taken_dict("optimizer")
        if optimizer is not None:
            for key in ("paramwise_cfg", "constructor"):
                if key in optimizer:
                    self.put(["optim_wrapper", key], optimizer.pop(key))
            self.put(["optim_wrapper", "optimizer"], optimizer)
        config = self.taken_dict("optimizer_config") or {}
        if config.pop("_delete_", False):
            self.lost("optimizer_config._delete_", "what a base says about clipping and accumulation stays")
        kind = config.pop("type", "OptimizerHook")
        known = ("OptimizerHook", "Fp16OptimizerHook", "GradientCumulativeOptimizerHook", "GradientCumulativeFp16OptimizerHook")
        if kind not in known:
            self.lost("optimizer_config.type", f"{kind} has no counterpart")
            self.left_over("optimizer_config", config)
            kind, config = "", {}
        if config.get("grad_clip") is not None:
            self.put(["optim_wrapper", "clip_grad"], config["grad_clip"])
        config.pop("grad_clip", None)
        if "Cumulative" in kind:
            self.put(["optim_wrapper", "accumulative_counts"], config.pop("cumulative_iters", 1))
        fp16 = self.taken_dict("fp16")
        if "Fp16" in kind and fp16 is None:
            fp16 = {"loss_scale": config.pop("loss_scale")} if "loss_scale" in config else {}
        if fp16 is not None:
            # The hook's own default.
            scale = fp16.pop("loss_scale", 512.0)
            self.put(["optim_wrapper", "type"], "AmpOptimWrapper")
            self.put(["optim_wrapper", "dtype"], "float16")
            self.put(["optim_wrapper", "loss_scale"], scale)
            self.left_over("fp16", fp16)
        self.left_over("optimizer_config", config)

    def epochs(self):
        """The number of epochs or iterations, where this file says it."""
        loop = self.given.get("runner") or self.result.get("train_cfg") or {}
        lengths = []
        for key, older in (("max_epochs", "total_epochs"), ("max_iters", "total_iters")):
            value = (loop.get(key) if isinstance(loop, dict) else None) or self.given.get(older)
            lengths.append(value if is_number(value) and value > 0 else None)
        return lengths

    def scheduler(self):
        """MMEngine's param_scheduler: one whose begin and end change nothing."""
        given = self.result.pop("param_scheduler", None)
        if given is None:
            return
        entries = given if isinstance(given, list) else [given]
        converted = [self.scheduler_entry(entry) for entry in entries]
        if len(entries) > 1 or None in converted:
            self.lost("param_scheduler", f"{len(entries)} schedulers of MMEngine, each from begin to end, have no exact counterpart here"
                      if len(entries) > 1 else "has no exact counterpart")
        else:
            self.result["param_scheduler"] = converted

    def scheduler_entry(self, entry):
        if not isinstance(entry, dict):
            return None
        entry = dict(entry)
        kind, begin, end = entry.pop("type", None), entry.pop("begin", 0), entry.pop("end", None)
        by_epoch = entry.pop("by_epoch", True)
        length = self.epochs()[0 if by_epoch else 1]
        runs_to_its_end = end is None or (length is not None and is_number(end) and end >= length)
        result = {"type": kind, **({} if by_epoch else {"by_epoch": False})}
        own = {"StepLR": {"step_size", "gamma"}, "MultiStepLR": {"milestones", "gamma"}, "ExponentialLR": {"gamma"},
               "CosineAnnealingLR": {"T_max", "eta_min"}, "LinearLR": {"start_factor", "end_factor"}, "PolyLR": {"power", "eta_min"}}
        if begin != 0 or not isinstance(kind, str) or kind not in own or not set(entry) <= own[kind]:
            return None
        if kind in ("LinearLR", "PolyLR"):  # both hold their last value
            if not isinstance(end, int) or end < 2 or entry.pop("eta_min", 0) != 0:
                return None
            return {**result, "type": "LinearLR" if kind == "LinearLR" else "PolynomialLR", "total_iters": end - 1, **entry}
        if kind == "CosineAnnealingLR":
            entry.setdefault("T_max", end)
            runs_to_its_end = runs_to_its_end or entry["T_max"] == end
        return {**result, **entry} if runs_to_its_end and None not in entry.values() else None

    def learning_rate(self):
        """MMCV's lr_config."""
        config = self.taken_dict("lr_config")
        if config is None:
            return
        config.pop("_delete_", None)
        schedule = self.mmcv_schedule(config)
        if schedule is None:
            self.lost("lr_config", "has no exact counterpart" + (" (a warm-up by steps of a schedule by epochs)" if config.get("warmup") else ""))
        else:
            self.put(["param_scheduler"], schedule)

    def mmcv_schedule(self, config):
        config = dict(config)
        policy, by_epoch = config.pop("policy", None), config.pop("by_epoch", True)
        warmup = {key: config.pop(key) for key in list(config) if key.startswith("warmup")}
        length = self.epochs()[0 if by_epoch else 1]
        rate = self.rate()
        policy = policy.lower() if isinstance(policy, str) else policy
        if policy == "fixed" and not config:
            regular = {}
        elif policy == "step" and set(config) <= {"step", "gamma"} and "step" in config:
            step = config.pop("step")
            regular = {"type": "MultiStepLR", "milestones": step} if isinstance(step, list) else {"type": "StepLR", "step_size": step}
            regular["gamma"] = config.get("gamma", 0.1)
        elif policy == "exp" and set(config) == {"gamma"}:
            regular = {"type": "ExponentialLR", **config}
        elif policy == "poly" and set(config) <= {"power", "min_lr"} and config.get("min_lr", 0) == 0 and length:
            regular = {"type": "PolynomialLR", "total_iters": length, "power": config.get("power", 1.0)}
        elif policy == "cosineannealing" and set(config) == {"min_lr"} and length:
            regular = {"type": "CosineAnnealingLR", "T_max": length, "eta_min": config["min_lr"]}
        elif policy == "cosineannealing" and set(config) == {"min_lr_ratio"} and length and rate is not None and is_number(config["min_lr_ratio"]):
            regular = {"type": "CosineAnnealingLR", "T_max": length, "eta_min": rate * config["min_lr_ratio"]}
        else:
            return None
        return self.with_warmup(regular, warmup, by_epoch)

    def rate(self):
        value = self.result
        for key in ("optim_wrapper", "optimizer", "lr"):
            value = value.get(key) if isinstance(value, dict) else None
        return value if is_number(value) else None

    @staticmethod
    def with_warmup(regular, warmup, by_epoch):
        parts = [regular] if regular else []
        kind = warmup.get("warmup")
        if kind:
            # Multiplies the regular rate, step by step: a chain, where both count steps.
            if kind not in ("linear", "constant") or warmup.get("warmup_by_epoch") or (by_epoch and regular) or "warmup_iters" not in warmup:
                return None
            ratio = warmup.get("warmup_ratio", 0.1)
            first = {"type": "LinearLR", "start_factor": ratio} if kind == "linear" else {"type": "ConstantLR", "factor": ratio}
            parts = [{**first, "total_iters": warmup["warmup_iters"]}, *parts]
            by_epoch = False
        counted = {} if by_epoch else {"by_epoch": False}
        if len(parts) < 2:
            return [{**part, **counted} for part in parts]
        return [{"type": "ChainedScheduler", **counted, "schedulers": parts}]

    def loop(self):
        loop = self.result.pop("train_cfg", None)
        if loop is None:
            loop = self.taken_dict("runner") or {}
            for key, name in (("max_epochs", "total_epochs"), ("max_iters", "total_iters")):
                if name in self.given:
                    loop[key] = self.take(name)
        elif not isinstance(loop, dict):
            self.lost("train_cfg", "is no dict")
            return
        scaler = loop.pop("fp16_loss_scaler", None)
        if scaler is not None:
            self.lost("runner.fp16_loss_scaler", "the model's train_step scaled the loss; write optim_wrapper: {type: AmpOptimWrapper, loss_scale: ...}")
        if loop.get("type") in EPOCH_LOOPS:
            loop.pop("type")
        elif loop.get("type") in ITERATION_LOOPS:
            loop.pop("type")
            loop["by_epoch"] = False
        if loop.get("by_epoch") is True:
            loop.pop("by_epoch")
        if loop:
            self.result["train_cfg"] = loop

    def hooks(self):
        hooks = self.taken_dict("default_hooks") or {}
        for key, name in (("checkpoint", "checkpoint_config"), ("logger", "log_config")):
            older = self.taken_dict(name)
            if older is not None:
                listed = older.pop("hooks", [])
                for entry in listed if isinstance(listed, list) else [listed]:
                    if entry != {"type": "TextLoggerHook"}:
                        self.lost(f"{name}.hooks", f"{entry.get('type') if isinstance(entry, dict) else entry} has no counterpart")
                hooks[key] = older
        for key in ("timer", "param_scheduler", "sampler_seed"):
            hooks.pop(key, None)  # what the loop does anyhow
        for key, kind in (("checkpoint", "CheckpointHook"), ("logger", "LoggerHook")):
            if not isinstance(hooks.get(key), dict):
                continue
            hook = dict(hooks.pop(key))
            kept = {name: hook.pop(name) for name in ("interval", "_delete_") if name in hook}
            if hook.get("type") == kind:
                hook.pop("type")
            if is_number(hook.get("max_keep_ckpts")):
                kept["max_keep"] = max(hook.pop("max_keep_ckpts"), 0)
            if key == "checkpoint" and hook.pop("by_epoch", True) is False:
                kept["step_interval"] = kept.pop("interval", 0)
                kept["interval"] = 0
            self.left_over(f"default_hooks.{key}", hook)
            if kept:
                self.result.setdefault("default_hooks", {})[key] = kept
        self.left_over("default_hooks", hooks)

    def rest(self):
        seed = self.take("seed")
        if seed is not None:
            self.put(["randomness", "seed"], seed)
        for name, value in self.given.items():
            if name.startswith("__") or value is None or name in self.reader.used or (name == "workflow" and value == [["train", 1]]):
                continue  # what other values took stands in them
            self.lost(name, "is no key of halfstep's configs")


def convert(source, name):
    """The YAML text of a config, and what it lacks as 'file:line: text'. Raises SyntaxError."""
    reader = Reader(source, name)
    result = Converter(reader).result
    problems = [f"{name}:{line}: {' '.join(text.split())}" for line, text in sorted(reader.problems)]
    lines = yaml_block(result) if result else ["{}"]
    if problems:
        lines += ["", "# Not carried over:", *(f"#   {problem}" for problem in problems)]
    return "\n".join(lines) + "\n", problems


def main():
    parser = argparse.ArgumentParser(description="Turn a Python config of MMEngine or MMCV 1.x into a YAML config of halfstep.")
    parser.add_argument("config", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="write to this file instead of standard output")
    arguments = parser.parse_args()
    try:
        text, problems = convert(arguments.config.read_text(encoding="utf-8"), str(arguments.config))
        if arguments.output:
            arguments.output.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError) as error:
        print(f"error: {arguments.config}: {error}", file=sys.stderr)
        return 1
    if problems:
        print("not carried over:", *problems, sep="\n  ", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
