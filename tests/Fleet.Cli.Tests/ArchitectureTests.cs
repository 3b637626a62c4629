using System.Xml.Linq;
using Fleet.Tests;
using NetArchTest.Rules;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>The arrows between the projects, and the shape of the house (docs/architecture.md).</summary>
public sealed class ArchitectureTests
{
    private static readonly Dictionary<string, string[]> AllowedArrows = new()
    {
        ["Fleet.Shared"] = [],
        ["Fleet.Vmm"] = ["Fleet.Shared"],
        ["Fleet.Guest"] = ["Fleet.Shared"],
        ["Fleet.Host"] = ["Fleet.Shared"],
        ["Fleet.Scheduler"] = ["Fleet.Shared"],
        ["Fleet.Cli"] = ["Fleet.Shared", "Fleet.Host", "Fleet.Scheduler"],
    };

    private static readonly string[] NoPlaceForAnything = ["Models", "Helpers", "Utils", "Utilities", "Common", "Misc", "Managers"];

    [Fact]
    public void Should_reference_only_along_the_allowed_arrows()
    {
        foreach (var (project, allowed) in AllowedArrows)
        {
            var references = XDocument.Load(Path.Combine(Checkout.Root, project, project + ".csproj"))
                .Descendants("ProjectReference")
                .Select(reference => Path.GetFileNameWithoutExtension(reference.Attribute("Include")!.Value.Replace('\\', '/')));
            Assert.Empty(references.Except(allowed).Select(other => $"{project} -> {other}"));
        }
    }

    [Fact]
    public void Should_know_every_product_project()
    {
        var products = Directory.EnumerateFiles(Checkout.Root, "Fleet.*.csproj", new EnumerationOptions { RecurseSubdirectories = true, MaxRecursionDepth = 1 })
            .Select(path => Path.GetFileNameWithoutExtension(path)!)
            .Where(name => Directory.Exists(Path.Combine(Checkout.Root, name)));
        Assert.Equal(AllowedArrows.Keys.Order(), products.Order());
    }

    [Theory]
    [InlineData("Fleet.Host", "Fleet.Scheduler")]
    [InlineData("Fleet.Scheduler", "Fleet.Host")]
    public void Should_not_let_host_and_scheduler_meet_outside_the_contract(string from, string to)
    {
        var result = Types.InAssembly(System.Reflection.Assembly.Load(from)).ShouldNot().HaveDependencyOn(to).GetResult();
        Assert.True(result.IsSuccessful, string.Join(", ", result.FailingTypeNames ?? []));
    }

    /// <summary>Pure code computes: what decides on placements and life-cycles must be testable without an actor system.</summary>
    [Theory]
    [InlineData("Fleet.Vmm", "Akka")]
    [InlineData("Fleet.Vmm", "Microsoft.AspNetCore")]
    [InlineData("Fleet.Guest", "Akka")]
    [InlineData("Fleet.Guest", "Microsoft.AspNetCore")]
    [InlineData("Fleet.Host", "Microsoft.AspNetCore")]
    public void Should_keep_heavy_frameworks_out(string project, string framework)
    {
        var packages = XDocument.Load(Path.Combine(Checkout.Root, project, project + ".csproj"))
            .Descendants()
            .Where(element => element.Name.LocalName is "PackageReference" or "FrameworkReference")
            .Select(reference => reference.Attribute("Include")!.Value);
        Assert.DoesNotContain(packages, package => package.StartsWith(framework, StringComparison.Ordinal));
    }

    [Fact]
    public void Should_name_folders_after_capabilities_and_keep_files_readable()
    {
        var sources = AllowedArrows.Keys.SelectMany(project =>
            Directory.EnumerateFiles(Path.Combine(Checkout.Root, project), "*.cs", SearchOption.AllDirectories))
            .Where(path => !path.Contains("/obj/", StringComparison.Ordinal) && !path.Contains("/bin/", StringComparison.Ordinal))
            .ToArray();
        Assert.NotEmpty(sources);
        Assert.DoesNotContain(sources, path => Path.GetRelativePath(Checkout.Root, path).Split('/').Intersect(NoPlaceForAnything).Any());
        Assert.Empty(sources.Where(path => File.ReadLines(path).Count() > 600).Select(path => Path.GetRelativePath(Checkout.Root, path)));
    }
}
