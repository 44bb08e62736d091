"""Made from memory_flash.S by ``python -m lab.emulators.probe.flash_algorithm``."""

WORDS = (
    0x46C0BE00,
    0x47702000,
    0x2200490B,
    0xC00443D2,
    0xD1FC3904,
    0x47702000,
    0xE006B510,
    0x6804CA08,
    0xC010401C,
    0xD104429C,
    0x29003904,
    0x2000DCF6,
    0x2001BD10,
    0x46C0BD10,
    0x00004000,
)
ENTRIES = {
    "EraseSector": 0x8,
    "Init": 0x4,
    "ProgramPage": 0x18,
    "UnInit": 0x4,
}
