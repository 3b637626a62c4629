using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>A system call that failed, told the way Firecracker tells it: <c>No such file or directory (os error 2)</c>.</summary>
internal sealed class SystemCallException(string call, int errorNumber)
    : Exception($"{call}: {Describe(errorNumber)}")
{
    public const int NotPermitted = 1;
    public const int NoEntry = 2;
    public const int Interrupted = 4;
    public const int TryAgain = 11;
    public const int Exists = 17;
    public const int IsDirectory = 21;
    public const int TableFull = 23;
    public const int NotSupported = 95;
    public const int TooManyOpenFiles = 24;
    public const int AddressInUse = 98;

    /// <summary>errno.</summary>
    public int ErrorNumber { get; } = errorNumber;

    /// <summary>The kernel's sentence alone, without the name of the call.</summary>
    public string Reason => Describe(ErrorNumber);

    public static SystemCallException Last(string call) => new(call, Marshal.GetLastPInvokeError());

    private static string Describe(int errorNumber) =>
        $"{Marshal.GetPInvokeErrorMessage(errorNumber)} (os error {errorNumber})";
}
