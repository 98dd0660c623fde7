#!/usr/bin/env python3
"""Tests of tools/mm_config_to_yaml.py.

usage: mm_config_to_yaml_test.py [--program BUILD/halfstep] [unittest arguments]
With --program the command reads what comes out.
"""
import argparse
import itertools
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
TOOL = Path(__file__).resolve().parents[2] / "tools" / "mm_config_to_yaml.py"
sys.path.insert(0, str(TOOL.parent))
import mm_config_to_yaml  # noqa: E402
from yaml_text import yaml_text  # noqa: E402

PROGRAM = ""


def converted(source):
    text, problems = mm_config_to_yaml.convert(source, "c.py")
    return text.split("\n# Not carried over:")[0].strip(), [problem.removeprefix("c.py:") for problem in problems]


class Values(unittest.TestCase):
    def check(self, source, expected, *problems):
        text, found = converted(source)
        self.assertEqual(text, expected)
        self.assertEqual(found, list(problems))

    def value(self, expression, expected):
        self.check(f"randomness = dict(x={expression})", f"randomness:\n  x: {expected}")

    def test_literals(self):
        for expression, expected in {
                "1": "1", "-1": "-1", "1.5": "1.5", "1e-5": "1.0e-05", "5.": "5.0", "True": "true", "None": "null", "'a b'": "a b",
                "'5'": '"5"', "'true'": '"true"', "'null'": '"null"', "'1e5'": '"1e5"', "''": '""', "'a: b'": '"a: b"',
                "'a\\n\"b\\\\'": '"a\\u000a\\"b\\\\"', "'é'": '"é"', "[1, (2, 3)]": "[1, [2, 3]]", "()": "[]", "{}": "{}", "dict()": "{}",
                "[]": "[]", "list((1, 2))": "[1, 2]", "tuple([1])": "[1]", "28 * 28": "784", "2**16": "65536", "-(1 + 2) / 4": "-0.75",
                "7 // 2 % 2": "1", "'a' + 'b'": "ab", "[0] * 3": "[0, 0, 0]", "[1] + [2]": "[1, 2]", "not True": "false",
                "dict(a=1)['a']": "1", "[1, 2][-1]": "2", "[*[1], 2]": "[1, 2]", "f'a{1 + 1}b'": "a2b"}.items():
            with self.subTest(expression):
                self.value(expression, expected)

    def test_nested_dicts_and_lists(self):
        self.check("custom_hooks = [dict(type='A', x={'y': [dict(z=1), [2, dict(w=3)]]}), 5]",
                   "custom_hooks:\n  - type: A\n    x:\n      y:\n        - z: 1\n        - - 2\n          - w: 3\n  - 5")

    def test_names(self):
        self.check("a = dict(x=1)\nb = [a, a]\nmodel = dict(type='M', **a, list=b)",
                   "model:\n  type: M\n  x: 1\n  list:\n    - x: 1\n    - x: 1")
        self.check("a = dict(x=1)\nb = [a, a]\nmodel = dict(type='M', **a, list=b)\na['x']",
                   "{}", "4: 'a['x']' is a statement and not run; so a, b, model is left out")
        self.check("root = 'data/'\nmodel = dict(type='M', root=root + 'x')", "model:\n  type: M\n  root: data/x")
        self.check("model = dict(a=1)\nmodel = dict(b=2)", "model:\n  b: 2")

    def test_expressions_stay(self):
        self.check("model = dict(a={{_base_.x.y}}, b=_base_.z, c={{'$N:80'}}, d='{{$ROOT:/data}}/x', e='{{ fileBasename }}', f='{{x}}')",
                   "model:\n  a: {{_base_.x.y}}\n  b: {{_base_.z}}\n  c: {{$N:80}}\n  d: \"{{$ROOT:/data}}/x\"\n"
                   "  e: \"{{ fileBasename }}\"\n  f: \"{{'{{'}}x}}\"")

    def test_what_is_no_literal_is_named_and_left_out(self):
        self.check("model = dict(type='M', a=foo(1),\n  b=x, c={1, 2}, d=3j, e=lambda: 0, f=1 if True else 2)", "model:\n  type: M",
                   "1: model.a: 'foo(1)' is a call and not run", "2: model.b: the name x has no value that was understood",
                   "2: model.c: '{1, 2}' is a set and has no counterpart", "2: model.d: 3j has no counterpart",
                   "2: model.e: 'lambda: 0' is no literal", "2: model.f: '1 if True else 2' is no literal")
        self.check("model = [1, foo(1)]", "{}", "1: model: 'foo(1)' is a call and not run")
        self.check("model = dict(a={1: 2, None: 3})", "model:\n  a: {}", "1: model.a: the key 1 is no text that a key can be",
                   "1: model.a: the key None is no text that a key can be")
        self.check("model = dict(a=__import__('os').system('exit 1'))", "model: {}",
                   "1: model.a: '__import__('os').system('exit 1')' is a call and not run")

    def test_statements_are_named_and_what_they_change_is_left_out(self):
        self.check("model = dict(a=1)\nother = dict(model=model)\nother['model']['a'] = 2", "{}",
                   "3: 'other['model']['a'] = 2' is a statement and not run; so model, other is left out")
        self.check("import os\nfor i in [1]:\n  x = i\nmodel = dict(a=i)", "model: {}", "1: 'import os' is a statement and not run",
                   "2: 'for i in [1]:' is a statement and not run", "4: model.a: the name i has no value that was understood")
        self.check("with read_base():\n  from .x import *", "{}", "1: 'with read_base():' is a statement and not run")

    def test_nothing_grows_without_bounds(self):
        for source in ("model = dict(a=2**2**2**2**2**2)", "model = dict(a=9**9**9)", "model = dict(a=[[0] * 10000] * 10000)", "model = dict(a=[0] * 10**9)",
                       "a = 'x'\n" + "a = a + a\n" * 40 + "model = dict(a=a)", "a = [1]\n" + "a = [a, a]\n" * 40 + "model = dict(a=a)",
                       "model = dict(a=" + "-" * 5000 + "1)", "model = dict(a=" + "[" * 90 + "]" * 90 + ")", "model = dict(a=1/0, b=1e999, c=1e308*10)"):
            with self.subTest(source[:40]):
                try:
                    text, problems = mm_config_to_yaml.convert(source, "c.py")
                except (SyntaxError, MemoryError, RecursionError):
                    continue
                self.assertLess(len(text), 2000000)

    def test_texts_are_quoted_where_yaml_needs_it(self):
        for text in ("yes", "No", "~", "0x10", "+5", ".5", "- x", "a #b", "[x]", "{x", "*x", "&x", "!x", "%x", "@x", " x", "x ", "x:"):
            self.assertTrue(yaml_text(text).startswith('"'), text)
        for text in ("x", "a/b.c-d_e", "nullable", "Adam"):
            self.assertEqual(yaml_text(text), text)


class Keys(unittest.TestCase):
    def check(self, source, expected, *problems):
        text, found = converted(source)
        self.assertEqual(text, expected)
        self.assertEqual(found, list(problems))

    def test_bases_are_renamed(self):
        self.check("_base_ = ['../a/b.py', './c.yaml', 'mmdet::x.py']", '_base_: ["../a/b.yaml", "./c.yaml"]',
                   "1: _base_: 'mmdet::x.py' is no file beside this one")
        self.check("_base_ = 'b.py'\nmodel = dict(_delete_=True, type='M')", "_base_: b.yaml\nmodel:\n  _delete_: true\n  type: M")

    def test_mmcv_optimizer(self):
        self.check("optimizer = dict(type='SGD', lr=0.02, paramwise_cfg=dict(norm_decay_mult=0.))\n"
                   "optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))",
                   "optim_wrapper:\n  paramwise_cfg:\n    norm_decay_mult: 0.0\n  optimizer:\n    type: SGD\n    lr: 0.02\n"
                   "  clip_grad:\n    max_norm: 35\n    norm_type: 2")
        self.check("optimizer_config = dict(grad_clip=None)", "{}")
        self.check("optimizer_config = dict(type='GradientCumulativeFp16OptimizerHook', cumulative_iters=8, loss_scale='dynamic', coalesce=True)",
                   "optim_wrapper:\n  accumulative_counts: 8\n  type: AmpOptimWrapper\n  dtype: float16\n  loss_scale: dynamic",
                   "1: optimizer_config.coalesce: has no counterpart")
        self.check("optimizer_config = dict(_delete_=True, type='MyHook', x=1)", "{}",
                   "1: optimizer_config._delete_: what a base says about clipping and accumulation stays",
                   "1: optimizer_config.type: MyHook has no counterpart", "1: optimizer_config.x: has no counterpart")

    def test_mmcv_fp16(self):
        head = "optim_wrapper:\n  type: AmpOptimWrapper\n  dtype: float16\n  loss_scale:"
        for given, expected in {"dict(loss_scale=512.)": " 512.0", "dict(loss_scale='dynamic')": " dynamic", "dict()": " 512.0",
                                "dict(loss_scale=dict(init_scale=512.,mode='dynamic'))": "\n    init_scale: 512.0\n    mode: dynamic"}.items():
            self.check(f"fp16 = {given}", head + expected)
        self.check("fp16 = None", "{}")

    def test_mmcv_schedules(self):
        def schedule(config, expected, more="runner = dict(type='EpochBasedRunner', max_epochs=12)\n"):
            text, found = converted(f"{more}lr_config = dict({config})")
            self.assertEqual(found, [])
            self.assertIn("param_scheduler:" + expected, text.split("train_cfg:")[0].strip())

        schedule("policy='step', step=[8, 11]", "\n  - type: MultiStepLR\n    milestones: [8, 11]\n    gamma: 0.1")
        schedule("policy='step', step=3, gamma=0.5, by_epoch=False", "\n  - type: StepLR\n    step_size: 3\n    gamma: 0.5\n    by_epoch: false")
        schedule("policy='exp', gamma=0.9", "\n  - type: ExponentialLR\n    gamma: 0.9")
        schedule("policy='poly', power=0.9, min_lr=0", "\n  - type: PolynomialLR\n    total_iters: 12\n    power: 0.9")
        schedule("policy='CosineAnnealing', min_lr=1e-5", "\n  - type: CosineAnnealingLR\n    T_max: 12\n    eta_min: 1.0e-05")
        schedule("policy='CosineAnnealing', min_lr_ratio=0.5", "\n  - type: CosineAnnealingLR\n    T_max: 12\n    eta_min: 0.01",
                 "total_epochs = 12\noptimizer = dict(type='SGD', lr=0.02)\n")
        schedule("policy='fixed'", " []")
        schedule("policy='step', step=[100], by_epoch=False, warmup='linear', warmup_iters=50, warmup_ratio=0.001",
                 "\n  - type: LinearLR\n    start_factor: 0.001\n    by_epoch: false\n    total_iters: 50\n"
                 "  - type: MultiStepLR\n    milestones: [100]\n    gamma: 0.1\n    by_epoch: false")
        schedule("policy='CosineAnnealing', min_lr=0, warmup='constant', warmup_iters=5",
                 "\n  - type: ConstantLR\n    factor: 0.1\n    by_epoch: false\n    total_iters: 5\n  - type: CosineAnnealingLR\n    T_max: 12\n    eta_min: 0")
        for config in ("policy='exp', gamma=0.9, warmup='linear', warmup_iters=5, warmup_by_epoch=True", "policy='step', step=[8], min_lr=1e-6", "policy='cyclic'",
                       "policy='CosineAnnealing', min_lr=0", "step=[8]", "policy='step', step=[8], by_epoch=False, warmup='exp', warmup_iters=5"):
            self.check(f"lr_config = dict({config})", "{}", "1: lr_config: has no exact counterpart")
        self.check("total_epochs = 12\nlr_config = dict(policy='CosineAnnealing', min_lr=1e-5, warmup='linear', warmup_iters=5)",
                   "train_cfg:\n  max_epochs: 12", "2: lr_config: has no exact counterpart")

    def test_mmcv_loop_hooks_and_data(self):
        self.check("runner = dict(type='IterBasedRunner', max_iters=100)", "train_cfg:\n  max_iters: 100\n  by_epoch: false")
        self.check("runner = dict(fp16_loss_scaler=dict(init_scale=512))", "{}",
                   "1: runner.fp16_loss_scaler: the model's train_step scaled the loss; write optim_wrapper: {type: AmpOptimWrapper, loss_scale: ...}")
        self.check("checkpoint_config = dict(interval=2, max_keep_ckpts=-1)\nlog_config = dict(interval=50, hooks=[dict(type='TextLoggerHook'), dict(type='X')])",
                   "default_hooks:\n  logger:\n    interval: 50\n  checkpoint:\n    interval: 2\n    max_keep_ckpts: -1", "2: log_config.hooks: X has no counterpart")
        self.check("data = dict(samples_per_gpu=2, workers_per_gpu=4, train=dict(type='Coco'), val=dict(type='Coco'))",
                   "train_dataloader:\n  batch_size: 2\n  shuffle: true\n  dataset:\n    type: Coco", "1: data.val: has no counterpart",
                   "1: data.workers_per_gpu: has no counterpart")
        self.check("workflow = [('train', 1)]\nload_from = None\nseed = 5\nlog_level = 'INFO'", "randomness:\n  seed: 5",
                   "4: log_level: is no key of halfstep's configs")

    def test_mmengine(self):
        self.check("optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='Adam', betas=(0., 0.999)), accumulative_counts=8)",
                   "optim_wrapper:\n  type: AmpOptimWrapper\n  loss_scale: dynamic\n  optimizer:\n    type: Adam\n    betas: [0.0, 0.999]\n  accumulative_counts: 8")
        self.check("train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)", "train_cfg:\n  max_epochs: 12\n  val_interval: 1")
        self.check("train_dataloader = dict(batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(type='D'))",
                   "train_dataloader:\n  batch_size: 2\n  dataset:\n    type: D\n  shuffle: true", "1: train_dataloader.num_workers: has no counterpart")
        self.check("default_hooks = dict(timer=dict(type='IterTimerHook'), sampler_seed=dict(type='DistSamplerSeedHook'), logger=dict(type='LoggerHook', interval=50),"
                   "checkpoint=dict(type='CheckpointHook', interval=10, by_epoch=False, save_best='swd', out_dir='x'), visualization=dict(type='V'))",
                   "default_hooks:\n  logger:\n    interval: 50\n  checkpoint:\n    interval: 10\n    by_epoch: false\n    save_best: swd",
                   "1: default_hooks.checkpoint.out_dir: has no counterpart", "1: default_hooks.visualization: has no counterpart")
        self.check("val_cfg = dict(type='ValLoop')\ntest_cfg = dict(type='TestLoop', fp16=True)\nval_dataloader = dict(batch_size=1, pin_memory=True)", "val_dataloader:\n  batch_size: 1\ntest_cfg:\n  type: TestLoop\n  fp16: true",
                   "3: val_dataloader.pin_memory: has no counterpart")
        self.check("val_cfg = dict(type='MultiValLoop')", "{}", "1: val_cfg: is no key of halfstep's configs")

    def test_mmengine_schedules(self):
        self.check("param_scheduler = [dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),\n"
                   "dict(type='PolyLR', begin=0, end=12, verbose=True, convert_to_iter_based=True)]",
                   "param_scheduler:\n  - type: LinearLR\n    start_factor: 0.001\n    by_epoch: false\n    begin: 0\n    end: 500\n"
                   "  - type: PolyLR\n    begin: 0\n    end: 12\n    convert_to_iter_based: true", "1: param_scheduler.1.verbose: has no counterpart")
        self.check("param_scheduler = dict(type='StepLR', step_size=1)", "param_scheduler:\n  - type: StepLR\n    step_size: 1")
        for entry, kind in {"dict(type='LinearMomentum')": "LinearMomentum", "5": "5", "[dict(type='StepLR'), dict()]": "None"}.items():
            self.check(f"param_scheduler = {entry}", "{}", f"1: param_scheduler: {kind} has no counterpart, and the others would mean something else without it")

    def test_none_takes_away_what_a_base_says(self):
        for key, lines in {"fp16": ["optim_wrapper:", "  type: OptimWrapper", "  dtype: null", "  loss_scale: null"],
                           "optimizer_config": ["optim_wrapper:", "  accumulative_counts: null", "  clip_grad: null"],
                           "lr_config": ["param_scheduler: null"], "param_scheduler": ["param_scheduler: null"], "train_cfg": ["train_cfg: null"],
                           "test_dataloader": ["test_dataloader: null"], "custom_hooks": ["custom_hooks: null"], "work_dir": []}.items():
            self.check(f"_base_ = 'b.py'\n{key} = None", "\n".join(["_base_: b.yaml", *lines]))
            self.check(f"{key} = None", "{}")
        self.check("_base_ = 'b.py'\noptimizer_config = dict(grad_clip=None)", "_base_: b.yaml\noptim_wrapper:\n  clip_grad: null")
        self.check("checkpoint_config = None", "{}", "1: checkpoint_config: None has no counterpart")

    def test_schedules_by_iteration_count_steps_here(self):
        told = "counts optimizer steps here, not iterations; divide its numbers by accumulative_counts"
        for by_epoch, problems in (("False", [f"2: param_scheduler: {told}"]), ("True", [])):
            self.check("optim_wrapper = dict(generator=dict(accumulative_counts=8))\n"
                       f"param_scheduler = [dict(type='StepLR', step_size=9, by_epoch={by_epoch})]",
                       "optim_wrapper:\n  generator:\n    accumulative_counts: 8\n"
                       f"param_scheduler:\n  - type: StepLR\n    step_size: 9\n    by_epoch: {by_epoch.lower()}", *problems)
        text, found = converted("optimizer_config = dict(type='GradientCumulativeOptimizerHook', cumulative_iters=4)\n"
                                "lr_config = dict(policy='fixed', warmup='linear', warmup_iters=500)")
        self.assertIn("accumulative_counts: 4", text)
        self.assertEqual(found, [f"2: lr_config: {told}"])

    def test_several_optimizers_of_mmediting(self):
        for key in ("optimizers", "optimizer"):
            self.check(f"{key} = dict(generator=dict(type='Adam', lr=1e-4), discriminator=dict(type='Adam', lr=4e-4))\n"
                       "fp16 = dict(loss_scale=512.)\noptimizer_config = None",
                       "optim_wrapper:\n  constructor: OptimWrapperConstructor\n  generator:\n    optimizer:\n      type: Adam\n      lr: 0.0001\n"
                       "  discriminator:\n    optimizer:\n      type: Adam\n      lr: 0.0004", "2: fp16.loss_scale: must be written in each of the wrappers")

    def test_keys_of_any_type_are_converted_or_named(self):
        names = ("_base_", "optim_wrapper", "optimizer", "optimizer_config", "fp16", "lr_config", "runner", "data", "train_dataloader", "train_cfg",
                 "param_scheduler", "default_hooks", "checkpoint_config", "log_config", "total_epochs", "seed", "workflow", "model")
        inner = ("type", "grad_clip", "loss_scale", "policy", "step", "max_epochs", "hooks", "checkpoint", "sampler", "train", "max_keep_ckpts", "begin", "end")
        values = ("5", "'x'", "[1]", "None", "{{_base_.x}}", "dict()", "[dict()]", "True", "-1.5")
        for name, value in itertools.product(names, values):
            converted(f"optimizer = dict(lr=1)\n{name} = {value}")
            for key in inner:
                converted(f"{name} = dict({key}={value})")
                converted(f"{name} = [dict({key}={value})]")
                converted(f"{name} = dict(type='LinearLR', {key}={value})" if key != "type" else "")


class Program(unittest.TestCase):
    def run_tool(self, source, *options, status=0):
        with tempfile.TemporaryDirectory(prefix="halfstep-mm-") as folder:
            file = Path(folder) / "c.py"
            file.write_text(source, encoding="utf-8")
            result = subprocess.run([sys.executable, TOOL, file, *options], capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, status, result.stderr)
            self.assertNotIn("Traceback", result.stderr)
            return result.stdout, result.stderr.replace(str(file), "c.py")

    def test_lists_what_is_missing_on_both(self):
        output, errors = self.run_tool("x = 1\n\nmodel = dict(a=foo())\n")
        self.assertEqual(errors, "not carried over:\n  c.py:1: x: is no key of halfstep's configs\n  c.py:3: model.a: 'foo()' is a call and not run\n")
        self.assertIn("\n# Not carried over:\n#   ", output)
        self.assertIn("c.py:3: model.a: 'foo()' is a call and not run\n", output)

    def test_broken_files(self):
        self.assertIn("error: c.py: ", self.run_tool("model = dict(a=1,b=2.c=3)", status=1)[1])
        self.assertIn("error: ", self.run_tool("a = (", status=1)[1])

    def test_halfstep_reads_it(self):
        if not PROGRAM:
            self.skipTest("no --program is given")
        source = ("model = dict(type='Mlp', sizes=[28 * 28, 16, 10], text='a: \"b\" \\u2028\\x85 {{x}} # c', empty='', words=['true', '5', '~', 'a, b'], dict={})\n"
                  "optimizer = dict(type='Adam', lr=1e-5, betas=(0.0, 0.999))\nfp16 = dict(loss_scale=512.)\nlr_config = dict(policy='step', step=[8])\n")
        with tempfile.TemporaryDirectory(prefix="halfstep-mm-") as folder:
            first = Path(folder) / "base.py"
            first.write_text(source, encoding="utf-8")
            second = Path(folder) / "child.py"
            second.write_text("_base_ = './base.py'\noptimizer = dict(_delete_=True, type='SGD', lr={{'$HALFSTEP_TEST_UNSET:0.1'}})\nname = 'x'\n"
                              "custom_hooks = [dict(type='H', file='{{fileBasename}}', size=_base_.model.sizes)]\n", encoding="utf-8")
            for file in (first, second):
                subprocess.run([sys.executable, TOOL, file, "-o", file.with_suffix(".yaml")], check=True, capture_output=True, timeout=60)
            result = subprocess.run([PROGRAM, "print-config", second.with_suffix(".yaml")], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, 'model:\n  type: Mlp\n  sizes: [784, 16, 10]\n  text: "a: \\"b\\" \u2028\x85 {{\'{{\'}}x}} # c"\n  empty: ""\n'
                         '  words: ["true", "5", "~", "a, b"]\n  dict: {}\noptim_wrapper:\n  optimizer:\n    type: SGD\n    lr: 0.1\n'
                         '  type: AmpOptimWrapper\n  dtype: float16\n  loss_scale: 512.0\nparam_scheduler:\n  - type: MultiStepLR\n    milestones: [8]\n'
                         '    gamma: 0.1\ncustom_hooks:\n  - type: H\n    file: child.yaml\n    size: [784, 16, 10]\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="")
    arguments, rest = parser.parse_known_args()
    PROGRAM = arguments.program
    unittest.main(argv=[sys.argv[0], *rest])
