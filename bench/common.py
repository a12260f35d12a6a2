"""What the benches share: the load generator, free ports, children, and what /proc tells of them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
LOAD = ROOT / "target" / "release" / "examples" / "load"
KIT = ROOT / "target" / "kit" / "release" / "hoody-tunnel"
HOODY = ROOT / "target" / "release" / "hoody"


def build():
    """Builds the programs and the load generator, as they are released."""
    build = ["cargo", "build", "--release", "--quiet"]
    subprocess.run(build + ["--bin", "hoody", "--example", "load"], cwd=ROOT, check=True)
    # The kit as containers get it: without the client's half, in a folder of its own.
    kit = ["--no-default-features", "--bin", "hoody-tunnel", "--target-dir", "target/kit"]
    subprocess.run(build + kit, cwd=ROOT, check=True)


def free_port(taken=set()):
    """A port below the ephemeral range that nobody listens on."""
    for port in range(19600, 20000):
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        taken.add(port)
        return port
    raise SystemExit("no free port between 19600 and 20000")


def wait_port(port, host="127.0.0.1", seconds=15):
    """Waits until somebody listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nobody listens on {host}:{port}")


class Child:
    """A process of the bench; `stop` or the end of the bench kills it."""

    everyone = []

    def __init__(self, command, namespace=None, **options):
        command = [str(word) for word in command]
        if namespace:
            command = ["ip", "netns", "exec", namespace] + command
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        environment = {name: value for name, value in os.environ.items() if "HOODY" not in name}
        self.process = subprocess.Popen(command, start_new_session=True, env=environment, **options)
        self.name = pathlib.Path(command[0]).name
        Child.everyone.append(self)

    def status(self, key):
        """A number of KiB from /proc/PID/status."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        raise SystemExit(f"{self.name} is gone")

    def cpu(self):
        """Seconds of processor time so far."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        """Kills it and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self in Child.everyone:
            Child.everyone.remove(self)


def stop_all():
    """Kills every child that is left."""
    for child in list(Child.everyone):
        child.stop()


def load(command, namespace=None, timeout=180, **flags):
    """Runs the load generator and tells what it measured."""
    words = [str(LOAD), command]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    if namespace:
        words = ["ip", "netns", "exec", namespace] + words
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def table(head, rows):
    """Prints a Markdown table."""
    widths = [max(len(str(row[at])) for row in [head] + rows) for at in range(len(head))]
    for number, row in enumerate([head] + rows):
        cells = [str(cell).rjust(width) if at else str(cell).ljust(width)
                 for at, (cell, width) in enumerate(zip(row, widths))]
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("| " + " | ".join(("-" * (width - 1) + ":") if at else "-" * width
                                    for at, width in enumerate(widths)) + " |")
    sys.stdout.flush()


def relay(folder, name, pairs):
    """An nginx of one process that passes streams on: for each pair, from one port to the other."""
    servers = "".join(f"server {{ listen 127.0.0.1:{a}; proxy_pass 127.0.0.1:{b}; }}\n"
                      for a, b in pairs)
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    module = f"load_module {module};\n" if os.path.exists(module) else ""
    flags = subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr
    if not module and "--with-stream " not in flags + " ":
        raise SystemExit("this nginx has no stream module: apt-get install libnginx-mod-stream")
    config = folder / f"{name}.conf"
    config.write_text(f"{module}daemon off; master_process off; worker_processes 1;\n"
                      f"pid {folder}/{name}.pid; error_log stderr crit;\n"
                      "events { worker_connections 4096; }\n"
                      "stream { proxy_buffer_size 64k; tcp_nodelay on;\n" + servers + "}\n")
    child = Child(["nginx", "-p", folder, "-c", config, "-e", "stderr"])
    wait_port(pairs[0][0])
    return child
