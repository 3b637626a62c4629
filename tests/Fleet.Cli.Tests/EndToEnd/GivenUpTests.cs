using System.Diagnostics;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A control plane that does not answer, or not always: an API of the test's own, which is slow or away where it must be.</summary>
public sealed partial class GivenUpTests
{
    private const int Interrupt = 2;

    [Fact]
    public async Task Should_leave_no_microvm_when_a_run_is_given_up_before_its_create_is_answered()
    {
        using var api = new HttpListener();
        var address = $"http://127.0.0.1:{FreePort.Next()}/";
        api.Prefixes.Add(address);
        api.Start();
        using var run = Process.Start(new ProcessStartInfo("dotnet", [RunningFleet.Program, "--api", address, "vm", "run", "--name", "given-up", "--rm", "--", "sleep", "9"])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        })!;
        try
        {
            var create = await NextAsync();
            Assert.Equal(("POST", "/v1/vms"), (create.Request.HttpMethod, create.Request.Url!.AbsolutePath));
            var key = create.Request.Headers["Idempotency-Key"];
            Assert.NotNull(key);
            Assert.Equal(0, kill(run.Id, Interrupt));

            // Nobody answers the first: the client has gone. It asks again, with the key that tells which microVM it was.
            var again = await NextAsync();
            Assert.Equal(("POST", key), (again.Request.HttpMethod, again.Request.Headers["Idempotency-Key"]));
            await AnswerAsync(again, 201);
            var delete = await NextAsync();
            Assert.Equal(("DELETE", "/v1/vms/vm-1"), (delete.Request.HttpMethod, delete.Request.Url!.AbsolutePath));
            await AnswerAsync(delete, 202);
            await run.WaitForExitAsync(new CancellationTokenSource(TimeSpan.FromSeconds(20)).Token);
            Assert.Equal(130, run.ExitCode);
        }
        finally
        {
            if (!run.HasExited)
                run.Kill();
        }

        Task<HttpListenerContext> NextAsync() => api.GetContextAsync().WaitAsync(TimeSpan.FromSeconds(20));

        static async Task AnswerAsync(HttpListenerContext context, int status)
        {
            context.Response.StatusCode = status;
            context.Response.ContentType = "application/json";
            await context.Response.OutputStream.WriteAsync(Encoding.UTF8.GetBytes("""{"id": "vm-1", "name": "given-up", "state": "pending"}"""));
            context.Response.Close();
        }
    }

    [Fact]
    public async Task Should_go_on_waiting_for_a_drain_while_the_control_plane_is_away_for_a_moment()
    {
        using var api = new HttpListener();
        var address = $"http://127.0.0.1:{FreePort.Next()}/";
        api.Prefixes.Add(address);
        api.Start();
        using var drain = Process.Start(new ProcessStartInfo("dotnet", [RunningFleet.Program, "--api", address, "host", "drain", "box"])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        })!;
        try
        {
            const string Draining = """{"id": "box", "drain": {"done_at": null, "vms": 1, "left": 1, "deadline": "2026-01-01T00:00:00Z", "staying": []}}""";
            const string Restarted = """{"state": "unplaced", "moved": {"from": "box", "with_memory": false, "reason": {"code": "memory_stays", "message": "The drain's deadline was over."}}}""";
            await AnswerAsync(200, """{"items": [{"id": "vm-1"}, {"id": "vm-2"}, {"id": "vm-3"}, {"id": "vm-4"}], "next_page_token": null}""");
            await AnswerAsync(202, Draining);
            await AnswerAsync(503, """{"code": "unavailable", "detail": "The control plane is stopping."}""");
            (await NextAsync()).Response.Abort();
            await AnswerAsync(200, Draining.Replace("\"done_at\": null", "\"done_at\": \"2026-01-01T00:00:00Z\"", StringComparison.Ordinal));
            // One has no place yet; then two have none for good, and the third belongs to somebody else.
            await AnswerAsync(200, Waiting("pending"));
            await AnswerAsync(200, Waiting("unplaced"));
            // What became of each; the last was deleted meanwhile.
            await AnswerAsync(200, Restarted);
            await AnswerAsync(503, """{"code": "unavailable", "detail": "The control plane is stopping."}""");
            await AnswerAsync(200, Restarted);
            await AnswerAsync(200, """{"state": "running", "moved": {"from": "box", "with_memory": true, "reason": null}}""");
            await AnswerAsync(404, """{"code": "not_found", "detail": "There is no microVM vm-4."}""");
            var output = await drain.StandardOutput.ReadToEndAsync(new CancellationTokenSource(TimeSpan.FromSeconds(20)).Token);
            await drain.WaitForExitAsync();
            Assert.True(drain.ExitCode == 7, await drain.StandardError.ReadToEndAsync());
            Assert.EndsWith("box: drained, no microVM is left; 1 moved with its memory; 2 of its microVMs are unplaced: No room.\n", output, StringComparison.Ordinal);

            static string Waiting(string state) => $$$"""
                {"items": [{"id": "vm-1", "state": "unplaced", "reason": {"message": "No room."}}, {"id": "vm-2", "state": "{{{state}}}", "reason": {"message": "No room."}},
                {"id": "vm-9", "state": "pending", "reason": null}], "next_page_token": null}
                """;
        }
        finally
        {
            if (!drain.HasExited)
                drain.Kill();
        }

        Task<HttpListenerContext> NextAsync() => api.GetContextAsync().WaitAsync(TimeSpan.FromSeconds(20));

        async Task AnswerAsync(int status, string body)
        {
            var context = await NextAsync();
            context.Response.StatusCode = status;
            context.Response.ContentType = "application/json";
            await context.Response.OutputStream.WriteAsync(Encoding.UTF8.GetBytes(body));
            context.Response.Close();
        }
    }

    [LibraryImport("libc")]
    private static partial int kill(int pid, int signal);
}
