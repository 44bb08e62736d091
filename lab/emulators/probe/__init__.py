"""A virtual debug probe: CMSIS-DAP in front of an emulated core, as a plug-in of pyOCD."""
