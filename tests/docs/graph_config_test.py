"""docs/graph.md answers for each name of OneFlow's GraphConfig (OneFlow 0.7 to 1.0) and of its markers."""
import pathlib
import re
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

NAMES = """training enable_amp amp_white_identity amp_black_identity set_outputs_buffer_size set_gradient_accumulation_steps
allow_fuse_model_update_ops allow_fuse_add_to_output allow_fuse_cast_scale enable_multi_tensor_update enable_fused_model_update_cast
enable_zero set_zero_redundancy_optimizer_mode set_zero_redundancy_optimizer_min_size_after_split
enable_xla_jit enable_tensorrt enable_openvino enable_cudnn_conv_heuristic_search_algo
enable_compress_memory enable_choose_best_memory_allocation enable_straighten_algorithm enable_auto_memory
enable_auto_parallel enable_auto_parallel_ignore_user_sbp_config set_auto_parallel_computation_cost_ratio
set_auto_parallel_wait_time enable_auto_parallel_trunk_algo enable_auto_parallel_sbp_collector""".split()


def rows():
    """Of each row of the table the names it answers for and what it says."""
    text = (ROOT / "docs/graph.md").read_text()
    section = text.split("## OneFlow's GraphConfig")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    for line in lines:
        oneflow, here = [cell.strip() for cell in line.strip("|").split("|")]
        yield re.findall(r"`([a-z0-9_…]+)", oneflow), here


def answers(name, pattern):
    return name.startswith(pattern[:-1]) if pattern.endswith("…") else name == pattern


class GraphConfigTable(unittest.TestCase):
    def test_each_name_has_an_answer(self):
        table = list(rows())
        self.assertGreater(len(table), 10)
        for name in NAMES:
            found = [here for names, here in table if any(answers(name, pattern) for pattern in names)]
            self.assertEqual(len(found), 1, f"{name} must be in one row of docs/graph.md's table, but is in {len(found)}")
            self.assertGreater(len(found[0]), 7, name)

    def test_no_row_names_what_oneflow_has_not(self):
        for names, _ in rows():
            for pattern in names:
                self.assertTrue(any(answers(name, pattern) for name in NAMES), pattern)

    def test_what_is_there_is_declared(self):
        header = (ROOT / "halfstep/graph/graph_config.h").read_text()
        for names, here in rows():
            if here.startswith(("the same", "`enable_amp")):
                for name in names:
                    declared = header if not name.startswith("amp_") else (ROOT / "halfstep/autocast/amp_identity.h").read_text()
                    self.assertRegex(declared, rf"\b{name}\(")


if __name__ == "__main__":
    unittest.main()
