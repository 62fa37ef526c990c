# Several jobs of a rule in one process, which imports the code of a language model once: alone, that
# takes longer than to measure a small one, or to cache a small text.


for number, (rule_of_one, members) in enumerate(job_groups()):

    rule:
        name:
            f"{rule_of_one}_{number}"
        input:
            files_together(rule_of_one, members),
        output:
            outputs_together(rule_of_one, members),
        log:
            P.log(rule_of_one, f"together{number}"),
        benchmark:
            P.benchmark(rule_of_one, f"together{number}")
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        params:
            script=f"{rule_of_one}.py",
            jobs=jobs_together(rule_of_one, members),
            code=script_code(rule_of_one),
        script:
            "../scripts/together.py"

    # The rule of one remains, for what is in no group.
    set_as(rule_of_one, f"{rule_of_one}_{number}", runtime=len(members))
