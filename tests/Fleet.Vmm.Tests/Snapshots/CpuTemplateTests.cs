using Fleet.Vmm.Api;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Api;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Custom CPU templates: what they may say, and what a guest on the real KVM then has.</summary>
public sealed class CpuTemplateTests
{
    private const uint Sse3 = 1;

    [Fact]
    public void Should_change_the_bits_that_a_bitmap_names()
    {
        var template = Parse("""
            {"kvm_capabilities": ["1", "!171"],
             "cpuid_modifiers": [{"leaf": "0x7", "subleaf": "0b1", "flags": 1, "modifiers": [{"register": "ebx", "bitmap": "0b1xxx_0xx1"}]}],
             "msr_modifiers": [{"addr": "0x10a", "bitmap": "0bx01"}, {"addr": "17", "bitmap": "1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}],
             "reg_modifiers": [], "vcpu_features": null}
            """);
        Assert.Equal([1u], template.Required);
        Assert.Equal([171u], template.NotRequired);
        KvmCpuidEntry[] entries = [new() { Function = 7, Index = 1, Ebx = 1 }, new() { Function = 7, Index = 1, Flags = 1, Eax = 9, Ebx = 0b0111_1110 }];
        template.ApplyTo(entries);
        Assert.Equal((1u, 9u, 0b1111_0111u), (entries[0].Ebx, entries[1].Eax, entries[1].Ebx));
        Assert.Equal([0x10au, 17u], template.NamedMsrs);
        Assert.Equal(new BitChange(3, 1), template.Msrs[0].Bits);
        Assert.Equal(new BitChange(1UL << 63, 1UL << 63), template.Msrs[1].Bits);
        Assert.Equal(0b1101UL, new BitChange(3, 1).ApplyTo(0b1110));
    }

    [Fact]
    public void Should_refuse_a_leaf_that_kvm_does_not_offer()
    {
        var template = Parse("""{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x2", "flags": 0, "modifiers": []}]}""");
        Assert.Equal(
            "Template changes a CPUID entry not supported by KVM: Leaf: 0x1, Subleaf: 0x2",
            Assert.Throws<CpuTemplateException>(() => template.ApplyTo([new KvmCpuidEntry { Function = 1 }])).Message);
    }

    [Theory]
    [InlineData("""{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0}]}""", "missing field `modifiers`")]
    [InlineData("""{"cpuid_modifiers": [{"leaf": 1, "subleaf": "0x0", "flags": 0, "modifiers": []}]}""", "invalid type: integer `1`, expected a string")]
    [InlineData("""{"cpuid_modifiers": [{"leaf": "0x100000000", "subleaf": "0x0", "flags": 0, "modifiers": []}]}""", "invalid number `0x100000000`, expected one such as \"0x1f\"")]
    [InlineData("""{"cpuid_modifiers": [{"leaf": "1", "subleaf": "0", "flags": 0, "modifiers": [{"register": "esi", "bitmap": "0b1"}]}]}""", "unknown variant `esi`, expected one of `eax`, `ebx`, `ecx`, `edx`")]
    [InlineData("""{"cpuid_modifiers": [{"leaf": "1", "subleaf": "0", "flags": 0, "modifiers": [{"register": "eax", "bitmap": "0b000000000000000000000000000000000"}]}]}""", "a bitmap of more than 32 bits")]
    [InlineData("""{"msr_modifiers": [{"addr": "1", "bitmap": "0b12"}]}""", "invalid bitmap `0b12`, expected 0, 1 and x")]
    [InlineData("""{"msr_modifiers": [{"addr": "1"}]}""", "missing field `bitmap`")]
    [InlineData("""{"kvm_capabilities": ["many"]}""", "invalid KVM capability `many`, expected a number, after `!` where it need not be there")]
    [InlineData("""{"reg_modifiers": [{"addr": "1", "bitmap": "0b1"}]}""", "`reg_modifiers` is of aarch64, this is an x86-64 machine: leave it out")]
    [InlineData("""{"vcpu_features": [{"index": 0, "bitmap": "0b1"}]}""", "`vcpu_features` is of aarch64, this is an x86-64 machine: leave it out")]
    [InlineData("""{"model": "T2"}""", "unknown field `model`, expected one of `kvm_capabilities`, `cpuid_modifiers`, `msr_modifiers`, `reg_modifiers`, `vcpu_features`")]
    public void Should_say_what_is_wrong_with_a_template(string body, string fault)
    {
        using var vmm = new RunningVmm();
        Assert.StartsWith($"An error occurred when deserializing the json body of a request: {fault} at line 1 column ", vmm.Fault("PUT", "/cpu-config", body), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_pass_a_template_on_and_echo_none()
    {
        using var vmm = new RunningVmm();
        vmm.Ok("PUT", "/cpu-config", """{"kvm_capabilities": ["7"]}""");
        Assert.Contains("\"cpu-config\":null", vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
        vmm.Start();
        Assert.Equal([7u], vmm.Machines.Settings!.CpuTemplate!.Required);
        Assert.Equal("The requested operation is not supported after starting the microVM.", vmm.Fault("PUT", "/cpu-config", "{}"));
    }

    [Fact]
    public void Should_take_a_template_from_a_configuration_file_and_from_a_file_of_its_own()
    {
        using var files = new ScratchDirectory();
        var path = files.File("template.json", """{"kvm_capabilities": ["7"]}""");
        foreach (var value in new[] { $"\"{path}\"", """{"kvm_capabilities": ["7"]}""" })
        {
            var config = files.File("config.json", $$"""{"boot-source": {"kernel_image_path": "{{files.File("kernel", "k")}}"}, "cpu-config": {{value}}}""");
            using var vmm = new RunningVmm(null, true, "--config-file", config);
            Assert.True(SpinWait.SpinUntil(() => vmm.Machines.Settings is not null, RunningVmm.Patience));
            Assert.Equal([7u], vmm.Machines.Settings!.CpuTemplate!.Required);
        }
    }

    [SkippableFact]
    public void Should_make_the_guests_cpuid_as_the_template_says()
    {
        var usual = Ecx(null);
        const uint AlwaysSet = (1u << 24) | (1u << 31);
        Skip.If((usual & ~(Offered() | AlwaysSet)) != 0, "this KVM shows every guest the host's own CPUID (PVM)");
        Assert.NotEqual(0u, usual & Sse3);
        var masked = Parse("""{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [{"register": "ecx", "bitmap": "0b0"}]}]}""");
        Assert.Equal(usual & ~Sse3, Ecx(masked));

        static uint Offered()
        {
            using var system = new KvmSystem();
            var entries = new KvmCpuidEntry[KvmSystem.MaxCpuidEntries];
            var count = system.ReadSupportedCpuid(entries);
            return entries.Take(count).Single(entry => entry.Function == 1).Ecx;
        }

        // What KVM has as the guest's, by way of a snapshot.
        static uint Ecx(CpuTemplate? template)
        {
            using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { CpuTemplate = template });
            run.Machine.Start();
            run.Machine.Pause();
            var reader = new StateReader(SavedMachine.StateOf(run.Machine));
            Assert.Equal(1u, reader.U32());
            return VcpuState.Read(ref reader).Cpuid.Single(entry => entry.Function == 1).Ecx;
        }
    }

    [SkippableTheory]
    [InlineData("""{"msr_modifiers": [{"addr": "0xdeadbeef", "bitmap": "0b1"}]}""", "Template changes an MSR entry not supported by KVM: Register Address: 0xdeadbeef.")]
    [InlineData("""{"kvm_capabilities": ["4000000"]}""", "This host's KVM lacks capability 4000000, which the CPU template requires.")]
    [InlineData("""{"cpuid_modifiers": [{"leaf": "0x3fffffff", "subleaf": "0x0", "flags": 0, "modifiers": []}]}""", "Template changes a CPUID entry not supported by KVM: Leaf: 0x3fffffff, Subleaf: 0x0.")]
    public void Should_not_start_a_guest_whose_template_the_host_can_not_follow(string template, string fault)
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        var failure = Assert.Throws<MachineException>(() => new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { CpuTemplate = Parse(template) }));
        Assert.Equal((MachineFault.Other, fault), (failure.Fault, failure.Message));
    }

    private static CpuTemplate Parse(string json)
    {
        var body = new JsonBody(System.Text.Encoding.UTF8.GetBytes(json));
        body.Begin();
        var template = CpuTemplateBody.Read(ref body);
        body.End();
        return template;
    }
}
