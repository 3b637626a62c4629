using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>Gives up what root can do, for the calling thread and all that comes of it. Nothing brings it back.</summary>
internal static unsafe class Privileges
{
    private const int DropBound = 24; // PR_CAPBSET_DROP
    private const int SetSecureBits = 28; // PR_SET_SECUREBITS
    private const int Ambient = 47; // PR_CAP_AMBIENT
    private const int ClearAmbient = 4; // PR_CAP_AMBIENT_CLEAR_ALL
    private const int NoNewPrivileges = 38; // PR_SET_NO_NEW_PRIVS
    private const int InvalidArgument = 22;

    /// <summary>SECBIT_NOROOT, SECBIT_KEEP_CAPS_LOCKED, SECBIT_NO_CAP_AMBIENT_RAISE, and the locks of the first and last: user 0 would be nobody special.</summary>
    private const int NoRoot = 0x01 | 0x02 | 0x20 | 0x40 | 0x80;

    /// <summary>_LINUX_CAPABILITY_VERSION_3.</summary>
    private const uint CapabilityVersion = 0x20080522;

    /// <summary>More than there are; the kernel says which is the last.</summary>
    private const int MostCapabilities = 64;

    /// <exception cref="JailException">The kernel refused one.</exception>
    public static void Drop(uint user, uint group)
    {
        try
        {
            JailCalls.Check(JailCalls.prctl(SetSecureBits, NoRoot, 0, 0, 0), "prctl PR_SET_SECUREBITS");
            for (var capability = 0; capability < MostCapabilities; capability++)
            {
                if (JailCalls.prctl(DropBound, capability, 0, 0, 0) < 0)
                {
                    var failure = SystemCallException.Last("prctl PR_CAPBSET_DROP");
                    if (failure.ErrorNumber == InvalidArgument && capability > 0)
                    {
                        break;
                    }

                    throw failure;
                }
            }

            JailCalls.Check(JailCalls.prctl(Ambient, ClearAmbient, 0, 0, 0), "prctl PR_CAP_AMBIENT");
            JailCalls.Check(JailCalls.syscall(JailCalls.SetGroupsCall, 0, 0, 0, 0, 0), "setgroups");
            JailCalls.Check(JailCalls.syscall(JailCalls.SetResGidCall, (nint)group, (nint)group, (nint)group, 0, 0), "setresgid");
            JailCalls.Check(JailCalls.syscall(JailCalls.SetResUidCall, (nint)user, (nint)user, (nint)user, 0, 0), "setresuid");

            // SAFETY: struct __user_cap_header_struct is version and pid, the data are two times three words; all on this frame.
            var header = stackalloc uint[2] { CapabilityVersion, 0 };
            var none = stackalloc uint[6] { 0, 0, 0, 0, 0, 0 };
            JailCalls.Check(JailCalls.syscall(JailCalls.CapSetCall, (nint)header, (nint)none, 0, 0, 0), "capset");
            JailCalls.Check(JailCalls.prctl(NoNewPrivileges, 1, 0, 0, 0), "prctl PR_SET_NO_NEW_PRIVS");
        }
        catch (SystemCallException failure)
        {
            throw new JailException("Privileges could not be given up", failure);
        }
    }
}
