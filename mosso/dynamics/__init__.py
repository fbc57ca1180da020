"""Molecular dynamics and relaxation of many systems at once, with positions and momenta on the device."""
