using Fleet.Vmm.Boot;

namespace Fleet.Vmm.Devices;

/// <summary>Sleep control, sleep status and reset of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7 and 4.8.3.6).</summary>
internal sealed class PowerRegisters(Action onPowerOff, Action onReset) : IPortDevice
{
    public const int PortCount = 3;

    private const byte SleepEnable = 0x20;

    public byte Read(int register) => 0;

    public void Write(int register, ReadOnlySpan<byte> values)
    {
        foreach (var value in values)
        {
            switch (GuestLayout.PowerPort + register)
            {
                case GuestLayout.SleepControlPort when (value & SleepEnable) != 0 && ((value >> 2) & 7) == GuestLayout.SoftOffType:
                    onPowerOff();
                    break;
                case GuestLayout.ResetPort when value == GuestLayout.ResetValue:
                    onReset();
                    break;
            }
        }
    }
}
