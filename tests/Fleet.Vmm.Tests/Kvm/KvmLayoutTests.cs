using System.Diagnostics;
using System.Text;
using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Tests.Kvm;

/// <summary>Every struct and number of ours against the C headers of the machine that runs the test.</summary>
public sealed unsafe class KvmLayoutTests
{
    private readonly StringBuilder _program = new("""
        #include <stddef.h>
        #include <linux/kvm.h>
        #define SIZE(type, expected) _Static_assert(sizeof(struct type) == expected, "size of " #type)
        #define FIELD(type, field, expected) _Static_assert(offsetof(struct type, field) == expected, #type "." #field)
        #define VALUE(name, expected) _Static_assert((unsigned long)(name) == expected, #name)

        """);

    [SkippableFact]
    public void Should_match_the_headers_of_the_system()
    {
        Skip.IfNot(File.Exists("/usr/bin/gcc"), "gcc is not installed");
        Skip.IfNot(File.Exists("/usr/include/linux/kvm.h"), "the kernel's headers are not installed");
        Structs();
        Run();
        Numbers();
        var (exit, errors) = Compile(_program.ToString());
        Assert.True(exit == 0, errors);
    }

    [SkippableFact]
    public void Should_notice_a_wrong_number()
    {
        Skip.IfNot(File.Exists("/usr/bin/gcc"), "gcc is not installed");
        Skip.IfNot(File.Exists("/usr/include/linux/kvm.h"), "the kernel's headers are not installed");
        _program.Append("VALUE(KVM_RUN, 1);\n");
        Assert.NotEqual(0, Compile(_program.ToString()).Exit);
    }

    private void Structs()
    {
        Size("kvm_regs", sizeof(KvmRegs));
        KvmRegs regs;
        Field("kvm_regs", "rsi", &regs, &regs.Rsi);
        Field("kvm_regs", "rdi", &regs, &regs.Rdi);
        Field("kvm_regs", "rsp", &regs, &regs.Rsp);
        Field("kvm_regs", "rbp", &regs, &regs.Rbp);
        Field("kvm_regs", "rbx", &regs, &regs.Rbx);
        Field("kvm_regs", "r15", &regs, &regs.R15);
        Field("kvm_regs", "rip", &regs, &regs.Rip);
        Field("kvm_regs", "rflags", &regs, &regs.Rflags);

        Size("kvm_segment", sizeof(KvmSegment));
        KvmSegment segment;
        Field("kvm_segment", "limit", &segment, &segment.Limit);
        Field("kvm_segment", "selector", &segment, &segment.Selector);
        Field("kvm_segment", "type", &segment, &segment.Type);
        Field("kvm_segment", "present", &segment, &segment.Present);
        Field("kvm_segment", "dpl", &segment, &segment.Dpl);
        Field("kvm_segment", "db", &segment, &segment.Db);
        Field("kvm_segment", "s", &segment, &segment.S);
        Field("kvm_segment", "l", &segment, &segment.L);
        Field("kvm_segment", "g", &segment, &segment.G);
        Field("kvm_segment", "avl", &segment, &segment.Avl);
        Field("kvm_segment", "unusable", &segment, &segment.Unusable);

        Size("kvm_dtable", sizeof(KvmDtable));
        KvmDtable table;
        Field("kvm_dtable", "limit", &table, &table.Limit);

        Size("kvm_sregs", sizeof(KvmSregs));
        KvmSregs sregs;
        Field("kvm_sregs", "ss", &sregs, &sregs.Ss);
        Field("kvm_sregs", "tr", &sregs, &sregs.Tr);
        Field("kvm_sregs", "gdt", &sregs, &sregs.Gdt);
        Field("kvm_sregs", "idt", &sregs, &sregs.Idt);
        Field("kvm_sregs", "cr0", &sregs, &sregs.Cr0);
        Field("kvm_sregs", "cr3", &sregs, &sregs.Cr3);
        Field("kvm_sregs", "cr4", &sregs, &sregs.Cr4);
        Field("kvm_sregs", "efer", &sregs, &sregs.Efer);
        Field("kvm_sregs", "apic_base", &sregs, &sregs.ApicBase);

        Size("kvm_fpu", sizeof(KvmFpu));
        KvmFpu fpu;
        Field("kvm_fpu", "fcw", &fpu, &fpu.Fcw);
        Field("kvm_fpu", "mxcsr", &fpu, &fpu.Mxcsr);

        Size("kvm_lapic_state", sizeof(KvmLapicState));
        Size("kvm_msr_entry", sizeof(KvmMsrEntry));
        KvmMsrEntry msr;
        Field("kvm_msr_entry", "data", &msr, &msr.Data);
        Size("kvm_msrs", sizeof(KvmMsrsHeader));
        Size("kvm_cpuid_entry2", sizeof(KvmCpuidEntry));
        KvmCpuidEntry cpuid;
        Field("kvm_cpuid_entry2", "index", &cpuid, &cpuid.Index);
        Field("kvm_cpuid_entry2", "flags", &cpuid, &cpuid.Flags);
        Field("kvm_cpuid_entry2", "eax", &cpuid, &cpuid.Eax);
        Field("kvm_cpuid_entry2", "edx", &cpuid, &cpuid.Edx);
        Size("kvm_cpuid2", sizeof(KvmCpuidHeader));
        Size("kvm_pit_config", sizeof(KvmPitConfig));

        Size("kvm_vcpu_events", sizeof(KvmVcpuEvents));
        KvmVcpuEvents events;
        Field("kvm_vcpu_events", "nmi.injected", &events, &events.NmiInjected);
        Field("kvm_vcpu_events", "nmi.pending", &events, &events.NmiPending);
        Field("kvm_vcpu_events", "flags", &events, &events.Flags);
        Field("kvm_vcpu_events", "smi.pending", &events, &events.SmiPending);

        Size("kvm_userspace_memory_region", sizeof(KvmMemoryRegion));
        KvmMemoryRegion region;
        Field("kvm_userspace_memory_region", "guest_phys_addr", &region, &region.GuestPhysicalAddress);
        Field("kvm_userspace_memory_region", "memory_size", &region, &region.MemorySize);
        Field("kvm_userspace_memory_region", "userspace_addr", &region, &region.UserspaceAddress);
        Size("kvm_irq_level", sizeof(KvmIrqLevel));
        Size("kvm_mp_state", sizeof(KvmMpState));

        Size("kvm_xcrs", sizeof(KvmXcrs));
        Size("kvm_debugregs", sizeof(KvmDebugRegs));
        Size("kvm_pit_state2", sizeof(KvmPitState));
        Size("kvm_irqchip", sizeof(KvmIrqChip));
        KvmIrqChip chip;
        Field("kvm_irqchip", "chip", &chip, chip.Chip);
        Size("kvm_clock_data", sizeof(KvmClockData));
        KvmClockData clock;
        Field("kvm_clock_data", "flags", &clock, &clock.Flags);
        Field("kvm_clock_data", "realtime", &clock, &clock.Realtime);
        Size("kvm_dirty_log", sizeof(KvmDirtyLog));
        KvmDirtyLog dirty;
        Field("kvm_dirty_log", "dirty_bitmap", &dirty, &dirty.Bitmap);
        Size("kvm_xsave", KvmVcpu.PlainXsaveSize);

        Size("kvm_irqfd", sizeof(KvmIrqFd));
        KvmIrqFd irqfd;
        Field("kvm_irqfd", "gsi", &irqfd, &irqfd.Gsi);
        Field("kvm_irqfd", "flags", &irqfd, &irqfd.Flags);

        Size("kvm_ioeventfd", sizeof(KvmIoEventFd));
        KvmIoEventFd ioeventfd;
        Field("kvm_ioeventfd", "addr", &ioeventfd, &ioeventfd.Address);
        Field("kvm_ioeventfd", "len", &ioeventfd, &ioeventfd.Length);
        Field("kvm_ioeventfd", "fd", &ioeventfd, &ioeventfd.Fd);
        Field("kvm_ioeventfd", "flags", &ioeventfd, &ioeventfd.Flags);
        KvmSignalMask mask;
        Field("kvm_signal_mask", "sigset", &mask, &mask.Signals);
    }

    private void Run()
    {
        KvmRun run;
        _program.Append(System.Globalization.CultureInfo.InvariantCulture, $"_Static_assert(sizeof(struct kvm_run) >= {sizeof(KvmRun)}, \"kvm_run\");\n");
        Field("kvm_run", "immediate_exit", &run, &run.ImmediateExit);
        Field("kvm_run", "exit_reason", &run, &run.ExitReason);
        Field("kvm_run", "hw.hardware_exit_reason", &run, &run.HardwareExitReason);
        Field("kvm_run", "io.direction", &run, &run.IoDirection);
        Field("kvm_run", "io.size", &run, &run.IoSize);
        Field("kvm_run", "io.port", &run, &run.IoPort);
        Field("kvm_run", "io.count", &run, &run.IoCount);
        Field("kvm_run", "io.data_offset", &run, &run.IoDataOffset);
        Field("kvm_run", "mmio.phys_addr", &run, &run.MmioAddress);
        Field("kvm_run", "mmio.data", &run, run.MmioData);
        Field("kvm_run", "mmio.len", &run, &run.MmioLength);
        Field("kvm_run", "mmio.is_write", &run, &run.MmioIsWrite);
        Field("kvm_run", "internal.suberror", &run, &run.InternalSuberror);
        Field("kvm_run", "internal.ndata", &run, &run.InternalCount);
        Field("kvm_run", "internal.data", &run, run.InternalData);
        Field("kvm_run", "system_event.type", &run, &run.SystemEventType);
    }

    private void Numbers()
    {
        Value("KVM_GET_API_VERSION", KvmCalls.GetApiVersion);
        Value("KVM_CREATE_VM", KvmCalls.CreateVm);
        Value("KVM_CHECK_EXTENSION", KvmCalls.CheckExtension);
        Value("KVM_GET_VCPU_MMAP_SIZE", KvmCalls.GetVcpuMmapSize);
        Value("KVM_GET_SUPPORTED_CPUID", KvmCalls.GetSupportedCpuid);
        Value("KVM_CREATE_VCPU", KvmCalls.CreateVcpu);
        Value("KVM_SET_USER_MEMORY_REGION", KvmCalls.SetUserMemoryRegion);
        Value("KVM_SET_TSS_ADDR", KvmCalls.SetTssAddress);
        Value("KVM_CREATE_IRQCHIP", KvmCalls.CreateIrqChip);
        Value("KVM_IRQ_LINE", KvmCalls.IrqLine);
        Value("KVM_IRQFD", KvmCalls.IrqFd);
        Value("KVM_IOEVENTFD", KvmCalls.IoEventFd);
        Value("KVM_IOEVENTFD_FLAG_DATAMATCH", KvmCalls.IoEventFdDataMatch);
        Value("KVM_CREATE_PIT2", KvmCalls.CreatePit2);
        Value("KVM_RUN", KvmCalls.Run);
        Value("KVM_GET_REGS", KvmCalls.GetRegs);
        Value("KVM_SET_REGS", KvmCalls.SetRegs);
        Value("KVM_GET_SREGS", KvmCalls.GetSregs);
        Value("KVM_SET_SREGS", KvmCalls.SetSregs);
        Value("KVM_SET_MSRS", KvmCalls.SetMsrs);
        Value("KVM_SET_SIGNAL_MASK", KvmCalls.SetSignalMask);
        Value("KVM_SET_FPU", KvmCalls.SetFpu);
        Value("KVM_GET_LAPIC", KvmCalls.GetLapic);
        Value("KVM_SET_LAPIC", KvmCalls.SetLapic);
        Value("KVM_SET_CPUID2", KvmCalls.SetCpuid2);
        Value("KVM_GET_MP_STATE", KvmCalls.GetMpState);
        Value("KVM_GET_VCPU_EVENTS", KvmCalls.GetVcpuEvents);
        Value("KVM_KVMCLOCK_CTRL", KvmCalls.KvmClockControl);
        Value("KVM_GET_MSR_INDEX_LIST", KvmCalls.GetMsrIndexList);
        Value("KVM_GET_DIRTY_LOG", KvmCalls.GetDirtyLog);
        Value("KVM_GET_PIT2", KvmCalls.GetPit2);
        Value("KVM_SET_PIT2", KvmCalls.SetPit2);
        Value("KVM_GET_IRQCHIP", KvmCalls.GetIrqChip);
        Value("KVM_SET_IRQCHIP", KvmCalls.SetIrqChip);
        Value("KVM_GET_CLOCK", KvmCalls.GetClock);
        Value("KVM_SET_CLOCK", KvmCalls.SetClock);
        Value("KVM_GET_MSRS", KvmCalls.GetMsrs);
        Value("KVM_GET_CPUID2", KvmCalls.GetCpuid2);
        Value("KVM_SET_MP_STATE", KvmCalls.SetMpState);
        Value("KVM_SET_VCPU_EVENTS", KvmCalls.SetVcpuEvents);
        Value("KVM_GET_DEBUGREGS", KvmCalls.GetDebugRegs);
        Value("KVM_SET_DEBUGREGS", KvmCalls.SetDebugRegs);
        Value("KVM_GET_XSAVE", KvmCalls.GetXsave);
        Value("KVM_SET_XSAVE", KvmCalls.SetXsave);
        Value("KVM_GET_XSAVE2", KvmCalls.GetXsave2);
        Value("KVM_GET_XCRS", KvmCalls.GetXcrs);
        Value("KVM_SET_XCRS", KvmCalls.SetXcrs);
        Value("KVM_GET_TSC_KHZ", KvmCalls.GetTscKhz);
        Value("KVM_SET_TSC_KHZ", KvmCalls.SetTscKhz);
        Value("KVM_MEM_LOG_DIRTY_PAGES", KvmCalls.MemoryLogDirtyPages);
        Value("KVM_CLOCK_REALTIME", KvmCalls.ClockRealtime);
        Value("KVM_IRQCHIP_PIC_MASTER", KvmVm.FirstPic);
        Value("KVM_IRQCHIP_PIC_SLAVE", KvmVm.SecondPic);
        Value("KVM_IRQCHIP_IOAPIC", KvmVm.IoApic);
        Value("KVM_CAP_TSC_CONTROL", KvmCalls.CapabilityTscControl);
        Value("KVM_CAP_XSAVE2", KvmCalls.CapabilityXsave2);
        Value("KVM_CAP_IRQCHIP", KvmCalls.CapabilityIrqChip);
        Value("KVM_CAP_USER_MEMORY", KvmCalls.CapabilityUserMemory);
        Value("KVM_CAP_SET_TSS_ADDR", KvmCalls.CapabilitySetTssAddress);
        Value("KVM_CAP_EXT_CPUID", KvmCalls.CapabilityExtendedCpuid);
        Value("KVM_CAP_MP_STATE", KvmCalls.CapabilityMpState);
        Value("KVM_CAP_PIT2", KvmCalls.CapabilityPit2);
        Value("KVM_CAP_VCPU_EVENTS", KvmCalls.CapabilityVcpuEvents);
        Value("KVM_CAP_MAX_VCPUS", KvmCalls.CapabilityMaxVcpus);
        Value("KVM_CAP_IMMEDIATE_EXIT", KvmCalls.CapabilityImmediateExit);
        Value("KVM_EXIT_UNKNOWN", KvmCalls.ExitUnknown);
        Value("KVM_EXIT_IO", KvmCalls.ExitIo);
        Value("KVM_EXIT_MMIO", KvmCalls.ExitMmio);
        Value("KVM_EXIT_IRQ_WINDOW_OPEN", KvmCalls.ExitIrqWindowOpen);
        Value("KVM_EXIT_SHUTDOWN", KvmCalls.ExitShutdown);
        Value("KVM_EXIT_FAIL_ENTRY", KvmCalls.ExitFailEntry);
        Value("KVM_EXIT_INTR", KvmCalls.ExitInterrupted);
        Value("KVM_EXIT_INTERNAL_ERROR", KvmCalls.ExitInternalError);
        Value("KVM_EXIT_SYSTEM_EVENT", KvmCalls.ExitSystemEvent);
        Value("KVM_EXIT_IO_OUT", KvmCalls.IoOut);
        Value("KVM_MP_STATE_RUNNABLE", KvmCalls.MpStateRunnable);
        Value("KVM_MP_STATE_HALTED", KvmCalls.MpStateHalted);
        Value("KVM_PIT_SPEAKER_DUMMY", KvmCalls.PitSpeakerDummy);
        Value("KVM_CPUID_FLAG_SIGNIFCANT_INDEX", KvmCalls.CpuidSignificantIndex);
        Value("KVM_SYSTEM_EVENT_SHUTDOWN", KvmCalls.SystemEventShutdown);
        Value("KVM_SYSTEM_EVENT_RESET", KvmCalls.SystemEventReset);
    }

    private void Size(string type, int size) => Line($"SIZE({type}, {size});");

    private void Field(string type, string field, void* start, void* place) =>
        Line($"FIELD({type}, {field}, {(byte*)place - (byte*)start});");

    private void Value(string name, uint value) => Line($"VALUE({name}, {value}UL);");

    private void Line(string line) => _program.Append(line).Append('\n');

    private static (int Exit, string Errors) Compile(string program)
    {
        using var compiler = Process.Start(new ProcessStartInfo("/usr/bin/gcc", ["-fsyntax-only", "-std=gnu11", "-x", "c", "-"])
        {
            RedirectStandardInput = true,
            RedirectStandardError = true,
        })!;
        compiler.StandardInput.Write(program);
        compiler.StandardInput.Close();
        var errors = compiler.StandardError.ReadToEnd();
        compiler.WaitForExit();
        return (compiler.ExitCode, errors);
    }
}
