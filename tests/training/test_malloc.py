"""Page faults and resident memory, measured in a new process because the settings apply to a whole process."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


def run_script(code: str) -> list[int]:
    """Run a script in a new process, and return the integers that it prints."""
    prelude = """
        import os, resource
        import torch
        from fedray.training import malloc

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(40 * 2**18)  # 40 MiB, because blocks under 32 MiB are kept by default
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_is_reused_without_page_faults() -> None:
    by_default, with_setting = run_script("""
        print(min(faults() for _ in range(24)))
        malloc.keep_freed_memory()
        print(min(faults() for _ in range(24)))  # the first few may still fault
    """)
    assert with_setting < 10 < by_default


def test_trim_returns_free_memory() -> None:
    before, after = run_script("""
        malloc.keep_freed_memory()
        faults()
        print(resident())
        malloc.trim()
        print(resident())
    """)
    assert before - after > 36 * 2**20
