#!/usr/bin/env python3
"""A peer whose TCP stack is PyTCP (PyPI: PyTCP, GPL-3.0, imported and not distributed here), as the sender.

Install:  python3 -m venv VENV && VENV/bin/pip install PyTCP==2.7.6
Run:      VENV/bin/python pytcp.py, by the harness, which hands it descriptor 0 and the RIGHTEDGE_* variables.

PyTCP runs in threads that read and write whole frames on a descriptor, which does not have to be a TAP device: it
gets descriptor 0. When one of those threads dies of an exception, the traceback goes to standard error and the
connection stays as it then is, which is what any program using PyTCP would get. `python -O` switches PyTCP's
assertions off, and with them some of these deaths: that makes it a different stack, and is up to the harness.
"""

import importlib.metadata
import ipaddress
import os
import re
import select
import stat
import sys
import threading
import time

# This file is named like the package it needs, and Python looks next to the script first.
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [p for p in sys.path if os.path.realpath(p) != HERE]

# Standard output is for the lines of the contract only; whatever the library prints goes to standard error.
OUT, sys.stdout = sys.stdout, sys.stderr

PERIOD = 65521
CHUNK = 16384
BACKLOG = 1 << 20  # PyTCP takes any amount at once; this keeps its memory, and `written`, within bounds


def say(line):
    OUT.write(line + "\n")  # in one piece
    OUT.flush()


def leave(code):
    os._exit(code)  # PyTCP's threads are not daemons and would keep the process


def usage(message):
    print(f"pytcp peer: {message}", file=sys.stderr, flush=True)
    leave(2)


def setting(name):
    if name not in os.environ:
        usage(f"{name} is not set")
    return os.environ[name]


def number(name, text, least, most):
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        usage(f"{name}: not a number from {least} to {most}: {text!r}")
    return int(text)


def address_and_number(name, separator, most):
    address, _, rest = setting(name).partition(separator)
    try:
        return str(ipaddress.IPv4Address(address)), number(name, rest, 1, most)
    except ValueError as error:
        usage(f"{name}: {error}")


def settings():
    address, prefix = address_and_number("RIGHTEDGE_ADDRESS", "/", 32)
    receiver, port = address_and_number("RIGHTEDGE_RECEIVER", ":", 65535)
    mac = setting("RIGHTEDGE_MAC")
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac) or int(mac[:2], 16) & 1:
        usage(f"RIGHTEDGE_MAC: not a unicast hardware address: {mac!r}")
    mtu = number("RIGHTEDGE_MTU", setting("RIGHTEDGE_MTU"), 68, 1500)
    total = number("RIGHTEDGE_BYTES", setting("RIGHTEDGE_BYTES"), 0, 2**63 - 1)
    for word in filter(None, os.environ.get("RIGHTEDGE_OPTIONS", "").split(",")):
        if word != "nodelay":  # nothing to do for it: PyTCP has no Nagle
            usage(f"RIGHTEDGE_OPTIONS: {word!r} is not known")
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        usage("descriptor 0 is not a socket")
    return f"{address}/{prefix}", receiver, port, mac.lower(), mtu, total


def watch_harness():
    """PyTCP would read end of file for ever; so the end of the harness is watched for here."""
    hangup = select.poll()
    hangup.register(0, 0)  # POLLHUP and POLLERR come unasked
    hangup.poll()
    print("pytcp peer: the harness has gone", file=sys.stderr, flush=True)
    leave(1)


def main():
    address, receiver, port, mac, mtu, total = settings()
    try:
        say(f"stack pytcp {importlib.metadata.version('PyTCP')}")
        from pytcp import TcpIpStack, config
        from pytcp.lib import socket, stack
        from pytcp.lib.ip4_address import Ip4Host
        from pytcp.lib.mac_address import MacAddress
        from pytcp.protocols.tcp.session import ConnError, FsmState
    except ImportError as error:
        usage(f"PyTCP is not installed for this Python: {error}")

    config.LOG_CHANEL.clear()
    config.IP6_SUPPORT = False
    config.IP4_HOST_DHCP = False
    config.TAP_MTU = mtu
    stack.packet_handler.assign_mac_address(MacAddress(mac))
    stack.packet_handler.assign_ip4_address(Ip4Host(address))

    class Wire(TcpIpStack):
        """The stack on descriptor 0; the original constructor opens a TAP device."""

        def __init__(self):
            self.tap = 0

    threading.Thread(target=watch_harness, daemon=True).start()
    Wire().start()  # takes some seconds: it probes by ARP whether its address is free
    if not stack.packet_handler.ip4_unicast:
        usage(f"PyTCP does not take the address {address}: does the receiver use it?")

    connection = socket.socket()
    try:
        connection.connect((receiver, port))
    except OSError as error:
        say("written 0")
        say("error " + {ConnectionRefusedError: "ECONNREFUSED", TimeoutError: "ETIMEDOUT"}.get(type(error), "EIO"))
        leave(1)

    # PyTCP has no call that waits for the end of a connection or tells how it ended: look over its shoulder.
    session = connection.tcp_session
    over = threading.Event()
    outcome = []
    change_state = session._change_state

    def noted(state):
        before = session.state
        try:
            change_state(state)
        finally:
            if state is FsmState.TIME_WAIT or (state is FsmState.CLOSED and before is FsmState.LAST_ACK):
                outcome.append("done")
            elif state is FsmState.CLOSED:
                timeout = session._connection_error is ConnError.TIMEOUT
                outcome.append("error ETIMEDOUT" if timeout else "error ECONNRESET")
            if outcome:
                over.set()

    session._change_state = noted
    if session.state is FsmState.CLOSED and not outcome:  # before that was in place
        outcome.append("error ECONNRESET")
        over.set()

    pattern = bytes((7 * i + 13 * (i >> 8) + (i >> 3)) & 255 for i in range(PERIOD))
    pattern += pattern[:CHUNK]
    written = reported = 0
    next_report = time.monotonic()
    while written < total and not over.is_set():
        if len(session._tx_buffer) >= BACKLOG:
            over.wait(0.05)
        else:
            at = written % PERIOD
            try:
                written += connection.send(pattern[at : at + min(CHUNK, total - written)])
            except OSError:
                break  # `over` says why
        if written != reported and time.monotonic() >= next_report:
            say(f"written {written}")
            reported = written
            next_report = time.monotonic() + 0.25
    if written != reported or not total:
        say(f"written {written}")
    if written == total:
        connection.close()

    over.wait()
    time.sleep(0.3)  # the last segment, an ACK or a RST, is still to be written by another thread
    say(outcome[0])
    leave(0 if outcome[0] == "done" else 1)


if __name__ == "__main__":
    main()
