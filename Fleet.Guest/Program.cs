using Fleet.Guest;
using Fleet.Guest.Channel;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;

if (Libc.getpid() != 1) return UserProgram.Run(args) ?? Copying.Run(args);
GuestInit.Run();
return 1;
