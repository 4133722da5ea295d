"""Page faults and resident memory of a process of its own, for what it changes is the process's."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


def told(code: str) -> list[int]:
    prelude = """
        import os, resource
        import torch
        from fedray.training import malloc

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(40 * 2**18)  # 40 MiB: blocks under 32 MiB are kept by default too
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(word) for word in ran.stdout.split()]


def test_memory_that_was_freed_is_used_again_without_a_fault() -> None:
    by_default, kept = told("""
        print(min(faults() for _ in range(24)))
        malloc.keep_freed_memory()
        print(min(faults() for _ in range(24)))  # the first few find their places
    """)
    assert kept < 10 < by_default


def test_what_is_free_can_be_given_back() -> None:
    before, after = told("""
        malloc.keep_freed_memory()
        faults()
        print(resident())
        malloc.trim()
        print(resident())
    """)
    assert before - after > 36 * 2**20
