"""Outlets of rack PDUs over SNMP v1 and v2c, through ``pysnmp`` (an extra, imported when a PDU is used)."""

from __future__ import annotations

import asyncio
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from lab.errors import InfrastructureError, ToolMissing
from lab.switch_config import SnmpOutlet

INSTALL = "pip install 'hil-lab[snmp]'"
_ANSWER_S = 2.0
_RETRIES = 2


def missing_library() -> str:
    """Why PDUs cannot be used, with the way out; empty where they can."""
    return "" if find_spec("pysnmp") is not None else f"pysnmp is not installed: {INSTALL}"


class Snmp:
    """One outlet.

    Args:
        config: which.
    """

    def __init__(self, config: SnmpOutlet) -> None:
        self._config = config
        self.title = f"PDU {config.host} outlet {config.oid}"

    def set(self, on: bool) -> None:
        """Switch."""
        self._exchange(self._config.on_value if on else self._config.off_value)

    def state(self) -> bool | None:
        """Whether the PDU says that the outlet is on; None while it says neither (pending commands)."""
        value = self._exchange(None)
        return {self._config.on_value: True, self._config.off_value: False}.get(value)

    def close(self) -> None:
        """Nothing is held."""

    def _exchange(self, value: int | None) -> int:
        try:
            snmp = import_module("pysnmp.hlapi.v3arch.asyncio")
        except ImportError as error:
            raise ToolMissing(f"{self.title} needs pysnmp, which is not installed", hint=INSTALL) from error
        return asyncio.run(self._ask(snmp, value))

    async def _ask(self, snmp: ModuleType, value: int | None) -> int:
        """Set the outlet's variable, or get it where ``value`` is None; what it is then."""
        config = self._config
        engine = snmp.SnmpEngine()
        try:
            target = await snmp.UdpTransportTarget.create((config.host, config.port), _ANSWER_S, _RETRIES)
            login = snmp.CommunityData(config.community.get_secret_value(), mpModel=0 if config.version == "1" else 1)
            name = snmp.ObjectIdentity(config.oid)
            if value is None:
                answer = await snmp.get_cmd(engine, login, target, snmp.ContextData(), snmp.ObjectType(name))
            else:
                bound = snmp.ObjectType(name, snmp.Integer32(value))
                answer = await snmp.set_cmd(engine, login, target, snmp.ContextData(), bound)
        except OSError as error:
            raise InfrastructureError(f"{self.title}: {error}", hint="is the PDU in this network?") from error
        finally:
            engine.close_dispatcher()
        failure, status, _, bound_values = answer
        if failure or status:
            words = str(failure) if failure else status.prettyPrint()
            raise InfrastructureError(
                f"{self.title}: {words}",
                hint="are host, version and oid right, and may this community write? A wrong community gets no answer",
                transient=bool(failure),
            )
        try:
            return int(bound_values[0][1])
        except (TypeError, ValueError) as error:
            raise InfrastructureError(f"{self.title}: there is no such variable", hint="correct oid:") from error
