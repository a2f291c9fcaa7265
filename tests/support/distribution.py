"""The built distribution, installed as a device gets it: the wheel and the agent's locked libraries, nothing compiled.

Nothing is downloaded: the libraries are copied from this environment, where the lock's hashes were checked.
"""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def agent_libraries() -> list[str]:
    """Names of the distributions that `requirements/agent.txt` pins."""
    lock = (REPOSITORY / "requirements" / "agent.txt").read_text(encoding="utf-8")
    return re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout, offline, and return its path."""
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run((*command, "--wheel-dir", str(directory), str(REPOSITORY)), check=True, capture_output=True)
    return next(directory.glob("fleetlift-*.whl"))


def install_as_on_a_device(wheel: Path, directory: Path) -> Path:
    """Make an environment of the wheel and the agent's libraries alone; return its `bin` directory."""
    venv.create(directory, symlinks=True, with_pip=False)
    python = directory / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run((python, "-c", where), check=True, capture_output=True, text=True).stdout.strip())
    for name in agent_libraries():
        for file in importlib.metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps")
    subprocess.run((*pip, str(wheel)), check=True, capture_output=True)
    return directory / "bin"
