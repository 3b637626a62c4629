using System.Diagnostics;
using System.Net.Sockets;
using Fleet.Tests;

namespace Fleet.Benchmarks.Start;

/// <summary>
/// <c>fleet bench start</c>: what it costs to have a VMM, before any kernel boots. fleet-vmm and QEMU's microvm machine
/// take turns, so that noise of the machine falls on both.
/// </summary>
internal static class StartBenchmark
{
    private const int Rounds = 25;
    private const int GuestMib = 128;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    public static IReadOnlyList<Measurement> Run()
    {
        var vmm = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        if (!File.Exists(vmm))
            throw new BenchmarkException($"{vmm} is not built: run ./fleet build");
        if (!File.Exists("/dev/kvm"))
            throw new BenchmarkException("no /dev/kvm on this machine, and fleet-vmm needs it");
        var qemu = new[] { "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64" }.FirstOrDefault(File.Exists);
        var folder = Directory.CreateTempSubdirectory("fleet-bench-").FullName;
        try
        {
            return Measure(vmm, qemu, folder);
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }

    private static List<Measurement> Measure(string vmm, string? qemu, string folder)
    {
        var kernel = Path.Combine(folder, "kernel");
        SmallGuest.Write(kernel, SmallGuest.MarkAndHalt);
        var config = Path.Combine(folder, "vm.json");
        File.WriteAllText(config, $$$"""{"boot-source": {"kernel_image_path": "{{{kernel}}}", "boot_args": "x"}, "machine-config": {"vcpu_count": 1, "mem_size_mib": {{{GuestMib}}} } }""");

        // A second VMM of each kind runs all the while, as on a host that has more than one: pages of the program that all
        // of them share then count as resident, and not as private to one.
        string[] machine = ["-M", "microvm,isa-serial=on", "-nodefaults", "-no-user-config", "-display", "none", "-m", $"{GuestMib}M", "-accel", "tcg"];
        using var companion = Start(vmm, ["--api-sock", Path.Combine(folder, "companion.sock"), "--id", "companion"]);
        using var qemuCompanion = qemu is null ? null : Start(qemu, [.. machine, "-S"]);
        try
        {
            return Measure(vmm, qemu, machine, folder, kernel, config);
        }
        finally
        {
            End(companion);
            if (qemuCompanion is not null)
                End(qemuCompanion);
        }
    }

    private static List<Measurement> Measure(string vmm, string? qemu, string[] machine, string folder, string kernel, string config)
    {
        List<double> cpu = [], first = [], resident = [], unshared = [], qemuCpu = [], qemuFirst = [], qemuResident = [], qemuPrivate = [];
        for (var round = 0; round < Rounds + 1; round++)
        {
            var socket = Path.Combine(folder, $"api-{round}.sock");
            var ownCpu = ToAnswer(vmm, ["--api-sock", socket, "--id", "bench"], socket, "GET / HTTP/1.1\r\n\r\n"u8);
            var own = ToFirstInstruction(vmm, ["--no-api", "--config-file", config, "--id", "bench"]);
            var peerCpu = double.NaN;
            var peer = (Ms: double.NaN, Resident: double.NaN, Private: double.NaN);
            if (qemu is not null)
            {
                socket = Path.Combine(folder, $"qmp-{round}.sock");
                peerCpu = ToAnswer(qemu, [.. machine, "-S", "-qmp", $"unix:{socket},server=on,wait=off"], socket, default);
                peer = ToFirstInstruction(qemu, [.. machine, "-kernel", kernel, "-serial", "stdio"]);
            }

            if (round == 0)
                continue; // the first round fills the page cache, for both
            cpu.Add(ownCpu);
            first.Add(own.Ms);
            resident.Add(own.Resident);
            unshared.Add(own.Private);
            if (qemu is null)
                continue;
            qemuCpu.Add(peerCpu);
            qemuFirst.Add(peer.Ms);
            qemuResident.Add(peer.Resident);
            qemuPrivate.Add(peer.Private);
        }

        Measurement Line(string metric, List<double> values, string unit, string peer, List<double> beside) =>
            beside.Count == 0 ? new(metric, Median(values), unit) : new(metric, Median(values), unit, peer, Median(beside));
        return
        [
            Line("api_socket_cpu_ms", cpu, "ms", "QEMU microvm to its QMP greeting", qemuCpu),
            Line("first_instruction_ms", first, "ms", "QEMU microvm, TCG", qemuFirst),
            Line("resident_mib", resident, "MiB", "QEMU microvm, TCG", qemuResident),
            Line("private_mib", unshared, "MiB", "QEMU microvm, TCG", qemuPrivate),
        ];
    }

    /// <summary>CPU time in ms that the process has used when the first bytes of its first answer are there.</summary>
    /// <param name="program">What is measured.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="socket">Where it listens.</param>
    /// <param name="request">What it is asked; empty for one that speaks first.</param>
    private static double ToAnswer(string program, string[] arguments, string socket, ReadOnlySpan<byte> request)
    {
        Span<byte> answer = stackalloc byte[16];
        using var process = Start(program, arguments);
        try
        {
            var clock = Stopwatch.StartNew();
            while (true)
            {
                using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                try
                {
                    client.Connect(new UnixDomainSocketEndPoint(socket));
                    client.ReceiveTimeout = (int)Patience.TotalMilliseconds;
                    if (!request.IsEmpty)
                        client.Send(request);
                    if (client.Receive(answer) == 0)
                        throw Failed(process, program, "did not answer");
                    return ProcessFigures.CpuMs(process.Id);
                }
                catch (SocketException) when (clock.Elapsed < Patience && !process.HasExited)
                {
                    // Not there yet. Polling at this pace costs another core, not the process that is measured.
                    Thread.SpinWait(2000);
                }
                catch (SocketException)
                {
                    throw Failed(process, program, "had no socket");
                }
            }
        }
        finally
        {
            End(process);
        }
    }

    /// <summary>Wall time in ms from starting the process to the guest's first byte, and memory at that moment.</summary>
    private static (double Ms, double Resident, double Private) ToFirstInstruction(string program, string[] arguments)
    {
        var began = Stopwatch.GetTimestamp();
        using var process = Start(program, arguments);
        try
        {
            var reading = Task.Run(() =>
            {
                int value;
                while ((value = process.StandardOutput.BaseStream.ReadByte()) >= 0)
                {
                    if (value == SmallGuest.Mark)
                        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
                }

                return double.NaN;
            });
            if (!reading.Wait(Patience) || double.IsNaN(reading.Result))
                throw Failed(process, program, "did not bring the guest to its first byte");
            var (resident, unshared) = ProcessFigures.MemoryBeyondGuestMib(process.Id, GuestMib);
            return (reading.Result, resident, unshared);
        }
        finally
        {
            End(process);
        }
    }

    private static Process Start(string program, string[] arguments) => Process.Start(new ProcessStartInfo(program, arguments)
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    }) ?? throw new BenchmarkException($"could not start {program}");

    private static BenchmarkException Failed(Process process, string program, string what)
    {
        End(process);
        return new BenchmarkException($"{program} {what} within {Patience.TotalSeconds} s: {process.StandardError.ReadToEnd().Trim()}");
    }

    private static void End(Process process)
    {
        if (!process.HasExited)
            process.Kill();
        process.WaitForExit();
    }

    private static double Median(List<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted.Length % 2 == 1 ? sorted[sorted.Length / 2] : (sorted[(sorted.Length / 2) - 1] + sorted[sorted.Length / 2]) / 2;
    }
}
