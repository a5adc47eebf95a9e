from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="python", install_kfp_package=False)
def teach(recipe: str, dataset: Input[Dataset], teacher: Output[Model], attempt: str = ""):
    """End well, badly, or not at all."""
    import os
    import signal
    import subprocess
    import sys
    import time

    from sida import progress
    from sida.settings import settings

    progress.step_started("teach")
    bar = progress.Progress("teach", 10, "images")
    for done in range(11):
        bar.update(done, loss=1 / (1 + done))
        if recipe == "long":
            time.sleep(0.15)
    print("a line for the log")
    if recipe == "mistake":
        progress.error("teach", "the teacher file is missing: put it there", 2)
        raise SystemExit(2)
    if recipe == "crash":
        raise ZeroDivisionError("by nought")
    if recipe in ("slow", "deaf"):
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        worker = subprocess.Popen(sleep, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def finish(number, frame):
            if recipe == "slow":
                (settings().runs / "checkpoint").write_text("written")
                os._exit(0)

        signal.signal(signal.SIGTERM, finish)
        (settings().runs / "pids").write_text(f"{os.getpid()} {os.getppid()} {worker.pid}")
        time.sleep(600)
    with open(dataset.path, encoding="utf-8") as source, open(teacher.path, "w", encoding="utf-8") as file:
        file.write(source.read())
    progress.step_finished("teach", "ran" if attempt else "reused", 0.2, "file:///teacher.json")
