"""KineticsAVT and what it is made of. Needs the extra ``data`` (torch); never opens a socket."""
