using System.CommandLine;
using Fleet.Cli;
using Fleet.Cli.Access;
using Fleet.Cli.Admin;
using Fleet.Cli.Doctor;
using Fleet.Cli.Hosts;
using Fleet.Cli.Images;
using Fleet.Cli.Lab;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Cli.Simulate;
using Fleet.Cli.Vms;
using Fleet.Cli.Volumes;

var host = HostCommand.Create();
HostCommands.AddTo(host);

var root = new RootCommand("Fleet runs microVMs on bare-metal machines.")
{
    UpCommand.Create(), DownCommand.Create(), SchedulerCommand.Create(), host,
    VmCommands.Create(), ImageCommands.Create(), VolumeCommands.Create(), TokenCommands.Create(), DoctorCommand.Create(), LabCommands.Create(), AdminCommand.Create(), SimulateCommand.Create(),
    CommandContext.Api, CommandContext.Token, CommandContext.Authority, CommandContext.Data, CommandContext.Json,
};

var parsed = root.Parse(args);
return await UsageErrors.TellAsync(parsed, args) ?? await parsed.InvokeAsync(new InvocationConfiguration { ProcessTerminationTimeout = ExecCommand.PatienceOf(parsed) });
