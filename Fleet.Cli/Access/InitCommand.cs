using System.CommandLine;
using System.Text.Json.Nodes;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Node;

namespace Fleet.Cli.Access;

/// <summary><c>fleet scheduler init</c>: makes a new cell's credentials before its first node starts.</summary>
internal static class InitCommand
{
    public static Command Create()
    {
        var init = new Command("init", "Make the certificate authority and the admin's token of a new cell");
        init.SetAction(parsed =>
        {
            var data = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            var folder = new SchedulerOptions { DataDirectory = data.Scheduler }.AuthorityDirectory;
            if (CertificateAuthority.Exists(folder))
            {
                CommandContext.Tell(parsed, "already_initialised", $"{data.Root} has the authority of a cell already; fleet scheduler starts it.");
                return ExitCodes.Conflict;
            }

            try
            {
                using var authority = CertificateAuthority.OpenOrCreate(folder);
                LocalAdmin.Prepare(data.Credentials, authority);
                var (token, root) = (Path.Combine(data.Credentials, LocalAdmin.TokenFile), Path.Combine(data.Credentials, LocalAdmin.AuthorityFile));
                var output = parsed.InvocationConfiguration.Output;
                if (parsed.GetValue(CommandContext.Json))
                    Render.Json(output, new JsonObject { ["pin"] = authority.Pin, ["authority"] = root, ["admin_token"] = token });
                else
                    output.WriteLine($"pin          {authority.Pin}\nauthority    {root}\nadmin token  {token}\nBack up {folder}: who has it is the cell. Start the node with: fleet scheduler{(parsed.GetResult(CommandContext.Data) is { Implicit: false } ? $" --data {data.Root}" : "")}");
                return ExitCodes.Ok;
            }
            catch (SchedulerStartException failed)
            {
                CommandContext.Tell(parsed, "start_failed", failed.Message);
                return ExitCodes.Failed;
            }
        });
        return init;
    }
}
