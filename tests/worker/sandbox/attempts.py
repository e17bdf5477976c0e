"""What workers should not be able to do, each as a function that does it. Where nothing stops it, it succeeds without harm."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_TRACEME = 0
_CLONE_NEWUSER = 0x10000000
_IO_URING_SETUP = 425


def read(path: Path | str) -> bytes:
    return Path(path).read_bytes()


def list_folder(path: Path | str) -> list[str]:
    return os.listdir(path)


def write(path: Path | str) -> int:
    return Path(path).write_text("written")


def append(path: Path) -> int:
    with path.open("a") as file:
        return file.write("more")


def truncate_by_reading(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def make_folder(path: Path) -> None:
    path.mkdir()


def remove(path: Path) -> None:
    path.unlink()


def move(old: Path, new: Path) -> None:
    old.rename(new)


def link(old: Path, new: Path) -> None:
    os.link(old, new)


def symlink(old: Path, new: Path) -> None:
    new.symlink_to(old)


def change_mode(path: Path) -> None:
    path.chmod(0o777)


def change_times(path: Path) -> None:
    os.utime(path, (0, 0))


def read_of_parent(name: str) -> bytes:
    with open(f"/proc/{os.getppid()}/{name}", "rb") as file:
        # Memory has nothing at 0, and the host's name for its own is not needed: that it opens is enough.
        return b"" if name == "mem" else file.read()


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def spawn() -> int:
    # By clone(2) with CLONE_VFORK, or vfork(2).
    return os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1]


def run() -> int:
    return subprocess.run(["/bin/true"], check=True).returncode


def execute() -> None:
    os.execv("/bin/true", ["true"])


def make_memory_file() -> None:
    os.close(os.memfd_create("anything"))


def make_socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def make_socket_pair() -> None:
    for end in socket.socketpair():
        end.close()


def resolve() -> object:
    return socket.getaddrinfo("localhost", 80)


def listening_and_client() -> tuple[socket.socket, socket.socket]:
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0" + f"retraced-test-{os.getpid()}")
    server.listen()
    return server, socket.socket(socket.AF_UNIX)


def connect_to(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=5).close()


def connect(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, client = sockets
    client.connect(server.getsockname())


def bound_datagram_and_other() -> tuple[socket.socket, socket.socket]:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind("\0" + f"retraced-test-{os.getpid()}")
    return server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def send_to_address(sockets: tuple[socket.socket, socket.socket]) -> int:
    server, other = sockets
    return other.sendto(b"x", server.getsockname())


def connected_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def talk(sockets: tuple[socket.socket, socket.socket]) -> bytes:
    left, right = sockets
    left.sendall(b"frame")
    return right.recv(5)


def send_descriptor(sockets: tuple[socket.socket, socket.socket]) -> int:
    return socket.send_fds(sockets[0], [b"x"], [0])


def send_signal(pid: int) -> None:
    # Signal 0 only asks whether one could be sent.
    os.kill(pid, 0)


def send_signal_to_thread(pid: int) -> None:
    _check(_libc.tgkill(pid, pid, 0))


def abort() -> None:
    os.abort()


def trace() -> None:
    _check(_libc.ptrace(_PTRACE_TRACEME, 0, None, None))


def map_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_EXEC).close()


def make_code_of_memory() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _check(_libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC))


def import_compiled() -> str:
    name = next(name for name in ("_codecs_hk", "_codecs_tw", "_codecs_kr") if name not in sys.modules)
    return importlib.import_module(name).__name__


def load_library(path: str) -> None:
    ctypes.CDLL(path)


def become_root() -> None:
    os.setuid(0)


def unshare() -> None:
    _check(_libc.unshare(_CLONE_NEWUSER))


def set_up_io_uring() -> None:
    os.close(_check(_libc.syscall(ctypes.c_long(_IO_URING_SETUP), ctypes.c_long(1), ctypes.create_string_buffer(120))))


@dataclass(frozen=True)
class Opened:
    """A descriptor, as files have it."""

    fd: int

    def fileno(self) -> int:
        return self.fd


def handle_of_passwd() -> tuple[ctypes.Array[ctypes.c_char], Opened]:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    _check(_libc.name_to_handle_at(-100, b"/etc/passwd", handle, ctypes.byref(ctypes.c_int()), 0))
    return handle, Opened(os.open("/etc", os.O_RDONLY))


def open_handle(given: tuple[ctypes.Array[ctypes.c_char], Opened]) -> None:
    # With CAP_DAC_READ_SEARCH, this opens any file of the file system of any open descriptor.
    handle, folder = given
    os.close(_check(_libc.open_by_handle_at(folder.fd, handle, os.O_RDONLY)))


def read_from(file: Opened) -> bytes:
    return os.pread(file.fd, 4, 0)


def number_of_open_passwd() -> int:
    return os.open("/etc/passwd", os.O_RDONLY)


def open_passwd() -> Opened:
    return Opened(number_of_open_passwd())


def read_from_number(fd: int) -> bytes:
    return os.pread(fd, 4, 0)


def allocate(count: int) -> int:
    return len(bytearray(count))


def allocate_in_torch(count: int) -> int:
    return torch.zeros(count, dtype=torch.uint8).numel()


def allocate_in_pieces(count: int) -> int:
    pieces = [b"x" * (1 << 16) for _ in range(count >> 16)]
    return len(pieces)


def map_shared(count: int) -> None:
    mmap.mmap(-1, count).close()


def compute(seconds: float) -> None:
    while time.process_time() < seconds:
        pass


def compute_and_ignore(seconds: float) -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    compute(seconds)


def write_much(path: Path, count: int) -> int:
    with path.open("wb", buffering=0) as file:
        file.write(b"x" * count)
        return file.write(b"x")


def open_many(path: Path, count: int) -> int:
    files = [path.open() for _ in range(count)]
    return len(files)


def start_threads(count: int) -> int:
    stop = threading.Event()
    threads = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            threads.append(thread)
        return len(threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def a_thread() -> int:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    return 1


def import_pure() -> str:
    assert "wsgiref.headers" not in sys.modules
    import wsgiref.headers

    return wsgiref.headers.__name__


def who(*_: object) -> tuple[int, int, list[int]]:
    return os.getuid(), os.getgid(), os.getgroups()


def _check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
