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


ALREADY = ("model", "loss", "optim_wrapper", "param_scheduler", "custom_hooks", "train_cfg", "randomness", "load_from", "val_evaluator",
           "test_evaluator", "log_processor")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
EPOCH_LOOPS = ("EpochBasedRunner", "EpochBasedTrainLoop")
ITERATION_LOOPS = ("IterBasedRunner", "IterBasedTrainLoop")
SCHEDULES = ("StepLR", "MultiStepLR", "ExponentialLR", "ConstantLR", "LinearLR", "PolyLR", "CosineAnnealingLR", "CosineRestartLR", "OneCycleLR",
             "ReduceOnPlateauLR")
# What default_hooks may say of each hook here.
HOOKS = {"logger": ("LoggerHook", ("interval", "ignore_last")), "timer": ("IterTimerHook", ()), "runtime_info": ("RuntimeInfoHook", ()),
         "param_scheduler": ("ParamSchedulerHook", ()),
         "checkpoint": ("CheckpointHook", ("interval", "by_epoch", "max_keep_ckpts", "save_last", "save_best", "rule", "save_begin", "published_keys"))}


class Converter:
    """The config as halfstep has it, and what could not be carried over."""

    def __init__(self, reader):
        self.reader = reader
        self.given = dict(reader.values)
        self.problem = reader.problem
        self.result = {}
        self.inherits = self.given.get("_base_") is not None
        self.bases()
        for name in list(self.given):
            if name in ALREADY and (self.given[name] is not None or self.inherits):
                self.result[name] = self.take(name)
        for convert in (self.dataloaders, self.data, self.optimizer, self.scheduler, self.learning_rate, self.loop, self.hooks, self.rest):
            convert()

    def take(self, name):
        return self.given.pop(name, None)

    def removes(self, name):
        """Whether the name is None to take away what a base says. Takes it then; without a base None is as good as no value."""
        removes = self.inherits and name in self.given and self.given[name] is None
        if removes:
            self.take(name)
        return removes

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

    def dataloaders(self):
        for name in LOADERS:
            if self.removes(name):
                self.result[name] = None
            loader = self.taken_dict(name)
            if loader is None:
                continue
            sampler = loader.pop("sampler", None)
            if isinstance(sampler, dict) and sampler.pop("type", None) in ("DefaultSampler", None) and set(sampler) <= {"shuffle"}:
                loader["shuffle"] = sampler.get("shuffle", True)
            elif sampler is not None:
                self.lost(f"{name}.sampler", "has no counterpart")
            for key in ("num_workers", "persistent_workers", "pin_memory", "collate_fn", "prefetch_factor"):
                if key in loader:
                    loader.pop(key)
                    self.lost(f"{name}.{key}", "has no counterpart")
            self.result[name] = loader

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
        several = self.several_optimizers()
        optimizer = self.taken_dict("optimizer")
        if optimizer is not None:
            for key in ("paramwise_cfg", "constructor"):
                if key in optimizer:
                    self.put(["optim_wrapper", key], optimizer.pop(key))
            self.put(["optim_wrapper", "optimizer"], optimizer)
        if several:
            for name in ("optimizer_config", "fp16"):
                self.left_over(name, self.taken_dict(name), "must be written in each of the wrappers")
            return
        if self.removes("optimizer_config"):
            self.put(["optim_wrapper", "accumulative_counts"], None)
            self.put(["optim_wrapper", "clip_grad"], None)
        config = self.taken_dict("optimizer_config") or {}
        if config.pop("_delete_", False):
            self.lost("optimizer_config._delete_", "what a base says about clipping and accumulation stays")
        kind = config.pop("type", "OptimizerHook")
        known = ("OptimizerHook", "Fp16OptimizerHook", "GradientCumulativeOptimizerHook", "GradientCumulativeFp16OptimizerHook")
        if kind not in known:
            self.lost("optimizer_config.type", f"{kind} has no counterpart")
            self.left_over("optimizer_config", config)
            kind, config = "", {}
        if config.get("grad_clip") is not None or (self.inherits and "grad_clip" in config):
            self.put(["optim_wrapper", "clip_grad"], config["grad_clip"])
        config.pop("grad_clip", None)
        if "Cumulative" in kind:
            self.put(["optim_wrapper", "accumulative_counts"], config.pop("cumulative_iters", 1))
        if self.removes("fp16"):
            self.put(["optim_wrapper", "type"], "OptimWrapper")
            for key in ("dtype", "loss_scale"):
                self.put(["optim_wrapper", key], None)
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

    def several_optimizers(self):
        """MMEditing's dict of optimizers; whether there was one."""
        for key in ("optimizers", "optimizer"):
            value = self.given.get(key)
            if isinstance(value, dict) and value and "paramwise_cfg" not in value and all(isinstance(item, dict) for item in value.values()):
                self.take(key)
                self.put(["optim_wrapper", "constructor"], "OptimWrapperConstructor")
                for name, optimizer in value.items():
                    self.put(["optim_wrapper", name, "optimizer"], optimizer)
                return True
        return False

    def warn_of_iterations(self, name, schedules):
        """Schedules by iteration count optimizer steps here."""
        wrapper = self.result.get("optim_wrapper")
        wrappers = [wrapper, *wrapper.values()] if isinstance(wrapper, dict) else []
        counts = [item["accumulative_counts"] for item in wrappers if isinstance(item, dict) and is_number(item.get("accumulative_counts"))]
        if any(count > 1 for count in counts) and any(schedule.get("by_epoch") is False for schedule in schedules):
            self.lost(name, "counts optimizer steps here, not iterations; divide its numbers by accumulative_counts")

    def epochs(self):
        """The number of epochs or iterations, where this file says it."""
        loop = self.given.get("runner") or self.result.get("train_cfg") or {}
        lengths = []
        for key, older in (("max_epochs", "total_epochs"), ("max_iters", "total_iters")):
            value = (loop.get(key) if isinstance(loop, dict) else None) or self.given.get(older)
            lengths.append(value if is_number(value) and value > 0 else None)
        return lengths

    def scheduler(self):
        """MMEngine's param_scheduler, whose entries mean the same here."""
        given = self.result.get("param_scheduler")
        if given is None:
            return
        self.result.pop("param_scheduler")
        entries = given if isinstance(given, list) else [given]
        unknown = [entry for entry in entries if not isinstance(entry, dict) or entry.get("type") not in SCHEDULES]
        if unknown:
            kind = unknown[0].get("type") if isinstance(unknown[0], dict) else unknown[0]
            self.lost("param_scheduler", f"{kind} has no counterpart, and the others would mean something else without it")
            return
        for index, entry in enumerate(entries):
            if entry.pop("verbose", False):
                self.lost(f"param_scheduler.{index}.verbose", "has no counterpart")
        self.warn_of_iterations("param_scheduler", entries)
        self.result["param_scheduler"] = entries

    def learning_rate(self):
        """MMCV's lr_config."""
        if self.removes("lr_config"):
            self.put(["param_scheduler"], None)
        config = self.taken_dict("lr_config")
        if config is None:
            return
        config.pop("_delete_", None)
        schedule = self.mmcv_schedule(config)
        if schedule is None:
            self.lost("lr_config", "has no exact counterpart")
        else:
            self.warn_of_iterations("lr_config", schedule)
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
        counted = {} if by_epoch else {"by_epoch": False}
        kind = warmup.get("warmup")
        if not kind:
            return [{**regular, **counted}] if regular else []
        if kind not in ("linear", "constant") or warmup.get("warmup_by_epoch") or "warmup_iters" not in warmup:
            return None
        # A factor on the regular rate, step by step. A list of schedules multiplies too, but for those that go to a rate of their own.
        if regular.get("eta_min", 0) != 0:
            return None
        ratio = warmup.get("warmup_ratio", 0.1)
        first = {"type": "LinearLR", "start_factor": ratio} if kind == "linear" else {"type": "ConstantLR", "factor": ratio}
        first = {**first, "by_epoch": False, "total_iters": warmup["warmup_iters"]}
        return [first, {**regular, **counted}] if regular else [first]

    def loop(self):
        if "train_cfg" in self.result and self.result["train_cfg"] is None:
            return
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
            if name in self.given and self.given[name] is None:
                self.lost(name, "None has no counterpart")
            older = self.taken_dict(name)
            if older is not None:
                listed = older.pop("hooks", [])
                for entry in listed if isinstance(listed, list) else [listed]:
                    if entry != {"type": "TextLoggerHook"}:
                        self.lost(f"{name}.hooks", f"{entry.get('type') if isinstance(entry, dict) else entry} has no counterpart")
                hooks[key] = older
        hooks.pop("sampler_seed", None)  # an order is a function of seed and epoch here
        for key, (kind, known) in HOOKS.items():
            if not isinstance(hooks.get(key), dict):
                continue
            hook = hooks.pop(key)
            kept = {name: hook.pop(name) for name in ("_delete_", *known, "priority") if name in hook}
            if hook.get("type") == kind:
                hook.pop("type")
            self.left_over(f"default_hooks.{key}", hook)
            if kept:
                self.result.setdefault("default_hooks", {})[key] = kept
        self.left_over("default_hooks", hooks)

    def rest(self):
        seed = self.take("seed")
        if seed is not None:
            self.put(["randomness", "seed"], seed)
        for name, value in self.given.items():
            if name.startswith("__") or value is None or name in self.reader.used:
                continue  # what other values took stands in them
            if (name, value) in (("workflow", [["train", 1]]), ("val_cfg", {"type": "ValLoop"}), ("test_cfg", {"type": "TestLoop"}), ("resume", False)):
                continue  # what is done anyhow
            if (name, value.get("type") if isinstance(value, dict) else None) in (("val_cfg", "ValLoop"), ("test_cfg", "TestLoop")):
                self.result[name] = value
                continue
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
