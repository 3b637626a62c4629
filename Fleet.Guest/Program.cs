using Fleet.Guest;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;

if (Libc.getpid() != 1)
{
    if (UserProgram.Run(args) is { } status) return status;
    Files.WriteAll(2, "fleet-init: runs as PID 1 of a microVM and does nothing else\n"u8);
    return 64;
}
GuestInit.Run();
return 1;
