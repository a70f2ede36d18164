from headrace.cli.app import main

main()
