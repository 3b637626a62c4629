using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
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
    private const string Request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    public static IReadOnlyList<Measurement> Run()
    {
        var vmm = VmmProcess.Program;
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
            var ownCpu = ToAnswer(vmm, ["--api-sock", socket, "--id", "bench"], socket, Request, "HTTP/1.1 200");
            var own = ToFirstInstruction(vmm, ["--no-api", "--config-file", config, "--id", "bench"]);
            socket = Path.Combine(folder, $"qmp-{round}.sock");
            var peerCpu = qemu is null ? 0 : ToAnswer(qemu, [.. machine, "-S", "-qmp", $"unix:{socket},server=on,wait=off"], socket, "", "{\"QMP\"");
            var peer = qemu is null ? default : ToFirstInstruction(qemu, [.. machine, "-kernel", kernel, "-serial", "stdio"]);
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

    /// <summary>
    /// CPU time in ms that the process has used when the first bytes of its answer are there. The connection alone says
    /// little: the kernel takes it as soon as the process listens, long before anybody serves.
    /// </summary>
    private static double ToAnswer(string program, string[] arguments, string socket, string request, string answer)
    {
        using var process = Start(program, arguments);
        try
        {
            using var client = Connect(process, program, socket);
            client.ReceiveTimeout = (int)Patience.TotalMilliseconds;
            client.Send(Encoding.ASCII.GetBytes(request));
            var received = new byte[4096];
            var length = 0;
            while (length < answer.Length)
            {
                var got = client.Receive(received.AsSpan(length));
                length += got > 0 ? got : throw Failed(process, program, "ended its connection and did not answer");
            }

            var cpu = ProcessFigures.CpuMs(process.Id);
            var text = Encoding.ASCII.GetString(received, 0, length);
            return text.StartsWith(answer, StringComparison.Ordinal) ? cpu : throw new BenchmarkException($"{program} answered {text.Trim()}");
        }
        catch (SocketException)
        {
            throw Failed(process, program, "did not answer");
        }
        finally
        {
            End(process);
        }
    }

    private static Socket Connect(Process process, string program, string path)
    {
        var clock = Stopwatch.StartNew();
        while (true)
        {
            var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                client.Connect(new UnixDomainSocketEndPoint(path));
                return client;
            }
            catch (SocketException)
            {
                client.Dispose();
                if (clock.Elapsed > Patience || process.HasExited)
                    throw Failed(process, program, "had no socket");

                // Not there yet. Polling at this pace costs another core, not the process that is measured.
                Thread.SpinWait(2000);
            }
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
